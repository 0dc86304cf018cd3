"""Ranges of settings that several methods search alike.

Published constants are not scale-free: the embedded model needs its own. Methods with targets
search the target's learning rate and clamp alike, with three values of what is the method's own.

Tried before on the same facts, and left out: λ of 1 and 10 (like 100) and of 10,000 (writes
nothing), L2 of 0.1 (like 1) and 10 (worse), τ of 0.002 and 2 (much worse), clamp 2 (worse with
lr 1), layers 1–2 and 1–3 (worse), one layer for MEMIT and AlphaEdit (worse), no contexts
(paraphrases fail), 2, 10 and 20 contexts of length 10 and 5 of length 5 (no better on the whole).
"""

ALL_LAYERS = ((0, 1, 2),)
EACH_LAYER = ((0,), (1,), (2,))
TARGET = {"steps": (25,), "weight_decay": (0.05,), "lr": (0.5, 1.0), "clamp": (0.75, 1.0)}
MEMIT = {"layers": ALL_LAYERS, "lam": (100.0, 300.0, 1000.0)} | TARGET
ENCORE = {"layers": ALL_LAYERS, "lam": (100.0,), "gamma": (0.1, 1.0, 10.0)} | TARGET
ALPHAEDIT = {"layers": ALL_LAYERS, "l2": (1.0,), "threshold": (0.02, 0.05, 0.1)} | TARGET
ROME = {"layers": EACH_LAYER} | TARGET
NSE = {
    "layers": ALL_LAYERS,
    "lam": (100.0,),
    "done_below": (3.0,),
    "hopeless_from": (1e3,),
    "mass": (0.8, 0.9, 1.0),
} | TARGET
FINE_TUNING = {"layers": (*EACH_LAYER, *ALL_LAYERS), "steps": (25,), "lr": (3e-4, 1e-3, 3e-3)}
