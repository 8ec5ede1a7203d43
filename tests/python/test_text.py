"""Text: prompts, answers and labels by a tokenizer.json."""
import shutil

import pytest
import scripts

import inset

tokenizers = pytest.importorskip("tokenizers")
WORDS = ["<s>", "When", "Mary", "and", "John", "went", "home", ",", "gave", "it", "to"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    for name in ("config.json", "model.safetensors"):
        shutil.copy(scripts.FIXTURES / "gpt2" / name, folder)
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="<s>"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    tokenizer.save(str(folder / "tokenizer.json"))
    return inset.Model(folder, device="cpu")


def test_prompts(model):
    ids, pieces = model.tokens("When Mary went home")
    assert ids == [0, 1, 2, 5, 6] and pieces[2] == "Mary"
    out = []
    for prompt in ("When Mary went home", ids, [ids], ["When Mary went home"]):
        with model.trace(prompt):
            x = model.output.logits[0, -1].logit_diff("Mary", ["John", 3]).save()
        out.append(float(x))
    assert len(set(out)) == 1


def test_answers(model):
    with model.trace("When Mary went home"):
        with pytest.raises(inset.errors.ValueError, match="2 tokens, 'Mary' 'John'"):
            model.output.logits[0, -1].logit("Mary John")
        model.output.logits.save()


def test_sweep(model):
    r = model.sweep("When Mary went home", "When John went home", patch="resid_pre", metric="logit_diff:Mary,John", progress=False)
    again = model.sweep([[0, 1, 2, 5, 6]], [[0, 1, 4, 5, 6]], patch="resid_pre", metric=("logit_diff", 2, 4), progress=False)
    assert (r.values == again.values).all() and r.labels("position")[2] == "2: Mary"
    pytest.importorskip("matplotlib").use("Agg")
    assert "Mary" in r._repr_svg_()


def test_none():
    model = inset.Model(scripts.FIXTURES / "gpt2", device="cpu")
    with pytest.raises(inset.errors.FileError, match="token ids work"):
        with model.trace("When Mary"):
            pass
