"""Loading a model: what comes back, what is refused and what the message says to do."""


def test_loading(tiny_folder, tiny_lm):
    """A saved folder comes back with its weights, in evaluation mode, without gradients."""
    lm, original = load_model(tiny_folder, device="cpu"), tiny_lm("gpt2")
    assert not lm.model.training and not any(p.requires_grad for p in lm.model.parameters())
    assert not changed(lm, bits(original))
    assert lm.architecture == ARCHITECTURES["gpt2"]


def test_loading_errors(tmp_path):
    """A missing folder is named; an undeclared architecture is told which are declared."""
    with pytest.raises(ValueError, match="no model could be loaded from .*nowhere"):
        load_model(tmp_path / "nowhere")
    AutoConfig.for_model("bert").save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="'bert' is not declared; known are gpt2, gptj, gpt_neox, llama"):
        load_model(tmp_path)
    with pytest.raises(ValueError, match="'mamba' is not declared"):
        architecture_of("mamba")
