"""In-context editing with retrieval: what a model can do with an edit that it is simply told."""

from . import ranges
from .entry import method
from .kinds.in_context import InContext

SOURCE = "IKE (2305.12740) without demonstrations; retrieval as in SCR"
ORACLE = "test_in_context.py::test_statements_stand_before_what_asks_for_them"


@method(
    source=SOURCE,
    search={"layers": (0,), "similarity": ranges.Range(0.3, 0.99, log=False)},
    test={"similarity": 0.7},
    colour="#6b4c2a",
    label="in context",
    oracle=ORACLE,
)
def in_context(similarity: float = 0.7) -> InContext:
    r"""The nearest edit's statement stands in front of a prompt; no weight is written.

    .. math::
        p(\cdot \mid s_i, x) \text{ with } i = \arg\max_i \cos(h(x) - \bar h,\, h(x_i) - \bar h)
        \ge \text{similarity}, \quad\text{else } p(\cdot \mid x)

    :math:`h` is the last block's output at a prompt's last token, :math:`x_i` the prompt of an edit
    and :math:`s_i` that prompt with its new object. See `InContext`. Layers are given as to all
    methods; nothing is edited there.

    Args:
        similarity: least cosine at which a statement is put in front, dimensionless.

    Example:
        >>> in_context(similarity=0.8).retrieval
        'nearest'
    """
    return InContext(name="in context", similarity=similarity)


@method(
    source=SOURCE,
    search={"layers": (0,)},
    test={},
    colour="#3d2b1f",
    label="in context, oracle",
    oracle=ORACLE,
)
def in_context_oracle() -> InContext:
    r"""The statement of the edit that a prompt asks for, by one who knows; an upper bound.

    .. math::
        p(\cdot \mid s_i, x) \text{ if } x \text{ asks for edit } i, \text{ else } p(\cdot \mid x)

    What asks for an edit are its prompt, its paraphrases and its questions.

    Example:
        >>> in_context_oracle().retrieval
        'oracle'
    """
    return InContext(name="in context (oracle)", retrieval="oracle")
