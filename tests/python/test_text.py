"""Text: prompts, answers and labels by a tokenizer.json."""
import shutil

import pytest
import scripts

import inset

WORDS = ["<s>", "When", "Mary", "and", "John", "went", "home", ",", "gave", "it", "to"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    tokenizers = pytest.importorskip("tokenizers")
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


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """A model with a tokenizer.json that inset reads itself."""
    folder = tmp_path_factory.mktemp("bare")
    for name in ("config.json", "model.safetensors"):
        shutil.copy(scripts.FIXTURES / "gpt2" / name, folder)
    shutil.copy(scripts.FIXTURES / "tokenizers" / "small.json", folder / "tokenizer.json")
    return folder


def test_without_the_package(bare, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "tokenizers", None)
    model = inset.Model(bare, device="cpu")
    ids, pieces = model.tokens("When Mary gave")
    assert pieces == ["<s>", "When", " Mary", " gave"] and ids[0] == 0 and model.text.own
    with pytest.raises(inset.errors.ValueError, match="one token was expected; most words have a space"):
        model.text.answer("stare")
    with pytest.raises(inset.errors.ValueError, match="has a NUL"):
        model.tokens("When\0Mary")
    r = model.sweep("When Mary gave", "When John gave", patch="resid_pre", metric=("logit_diff", " Mary", " John"), progress=False)
    assert r.labels("position")[2] == "2:  Mary"


def test_a_tokenizer_that_puts_a_space_before(bare, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "tokenizers", None)
    folder = shutil.copytree(bare, tmp_path / "prefix")
    shutil.copy(scripts.FIXTURES / "tokenizers" / "llama.json", folder / "tokenizer.json")
    with pytest.raises(inset.errors.ValueError, match="puts the space there by itself: 'Mar'"):
        inset.Model(folder, device="cpu").text.answer(" Mar")


def test_is_the_package(bare):
    tokenizers = pytest.importorskip("tokenizers")
    own, other = inset.Model(bare, device="cpu"), inset.Model(bare, device="cpu", tokenizer=tokenizers.Tokenizer.from_file(str(bare / "tokenizer.json")))
    assert own.text.own and not other.text.own
    for text in ("When Mary gave", " a drink, to the store ", ""):
        assert own.text.ids(text) == other.text.ids(text) and own.text.ids(text, False) == other.text.ids(text, False)


def test_other_kinds(bare, tmp_path):
    """A file of a kind that inset does not know is the package's."""
    tokenizers = pytest.importorskip("tokenizers")
    for name in ("config.json", "model.safetensors"):
        shutil.copy(bare / name, tmp_path)
    tokenizer = tokenizers.Tokenizer(tokenizers.models.Unigram([("<unk>", 0.0), ("When", -1.0), ("Mary", -2.0), (" ", -1.5)], unk_id=0))
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    model = inset.Model(tmp_path, device="cpu")
    assert model.tokens("When Mary")[0] == [1, 3, 2] and not model.text.own


def test_other_kinds_without_the_package(bare, tmp_path, monkeypatch):
    """The second text is refused as the first is."""
    for name in ("config.json", "model.safetensors"):
        shutil.copy(bare / name, tmp_path)
    (tmp_path / "tokenizer.json").write_text('{"model": {"type": "Unigram", "vocab": [["<unk>", 0.0]]}}')
    monkeypatch.setitem(__import__("sys").modules, "tokenizers", None)
    model = inset.Model(tmp_path, device="cpu")
    for text in ("When", "Mary"):
        with pytest.raises(inset.errors.FileError, match="Unigram"):
            model.tokens(text)


def test_gguf():
    """A quantised file has its own words."""
    model = inset.Model(scripts.FIXTURES / "gguf" / "llama.gguf", device="cpu")
    assert model.kind == "llama" and model.tokens("When Mary gave")[1] == ["<s>", "When", " Mary", " gave"]
    r = model.sweep("When Mary gave", "When John gave", patch="resid_pre", metric=("logit_diff", " Mary", " John"), progress=False)
    assert r.shape == (2, 4) and r.labels("position")[1] == "1: When"
