#!/usr/bin/env python3
"""Makes tests/fixtures/tokenizers: small tokenizer.json files in the configuration of each family, trained by Hugging Face's `tokenizers`, and texts with the
ids that it gives them (NAME.cases: lines of JSON, [text, ids with special tokens, ids without]).

    make_tokenizers.py                  files and cases
    make_tokenizers.py fuzz PROGRAM N   N random texts for each file beside PROGRAM (which reads and writes as tests/fuzz/tokens.c does)
"""
import json
import os
import random
import struct
import subprocess
import sys

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

FOLDER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "fixtures", "tokenizers")
LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
CORPUS = ["When Mary and John went to the store, John gave a drink to Mary. It's 1,234.50 dollars, isn't it?", "def f(x):\n    return [x ** 2 for x in range(10)]\n",
          "Größe und Übermut; naïve café, façade, Ελληνικά κείμενα и русский текст.", "東京は日本の首都です。中文分词测试。한국어 문장입니다.", "    tabs\tand\t\tspaces   \n\n\nlines  ",
          "हिन्दी में लिखा हुआ पाठ, العربية نص قصير.", "emoji 😀😃🎉👩‍👩‍👧 and more 🚀!!! ... --- ***", "They said that the other one was not there when we'd looked for it.",
          "http://example.com/a?b=c&d=e#f 0x1F 3.14e-10 $100 50% C++ a_b-c", "The researchers read the residual stream of the clean prompt at layer five, position three."]


def template(token, at):
    return processors.TemplateProcessing(single=f"{token} $A", pair=f"{token} $A {token} $B", special_tokens=[(token, at)])


def train(tokenizer, special, size, alphabet):
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=special, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(CORPUS * 3, trainer)
    return tokenizer


def byte_level(normalizer=None, before=(), special=("<|endoftext|>",), size=420, **more):
    t = Tokenizer(models.BPE(**more))
    if normalizer:
        t.normalizer = normalizer
    last = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not before or not isinstance(before[0], pre_tokenizers.Split))
    t.pre_tokenizer = pre_tokenizers.Sequence([*before, last]) if before else last
    t.decoder = decoders.ByteLevel()
    t.post_processor = processors.ByteLevel(trim_offsets=False)
    return train(t, list(special), size, pre_tokenizers.ByteLevel.alphabet())


def fallback(normalizer, before, special=("<unk>", "<s>", "</s>"), size=420):
    t = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    if normalizer:
        t.normalizer = normalizer
    if before:
        t.pre_tokenizer = before
    t.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    train(t, [*special, *(f"<0x{b:02X}>" for b in range(256))], size + 256, [])
    t.post_processor = template(special[1], 1)
    return t


def make():
    isolated = lambda pattern: pre_tokenizers.Split(Regex(pattern), "isolated")
    out = {}
    out["gpt2"] = byte_level()
    out["gpt2_prefix"] = byte_level()
    out["gpt2_prefix"].pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    out["gpt_neox"] = byte_level(normalizers.NFC())
    out["gpt_neox"].add_tokens([AddedToken(" " * n, normalized=True) for n in range(2, 9)] + [AddedToken("\u00e9t\u00e9", normalized=True)])
    out["llama3"] = byte_level(before=[isolated(LLAMA3)], special=("<|begin_of_text|>", "<|end_of_text|>"), ignore_merges=True)
    out["llama3"].post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=True), template("<|begin_of_text|>", 0)])
    out["qwen2"] = byte_level(normalizers.NFC(), [isolated(QWEN)], ("<|endoftext|>", "<|im_start|>", "<|im_end|>"))
    out["smollm2"] = byte_level(before=[pre_tokenizers.Digits(individual_digits=True)], special=("<|endoftext|>", "<|im_start|>", "<|im_end|>"))
    out["olmo2"] = byte_level(before=[isolated(LLAMA3)], special=("<|endoftext|>", "|||EMAIL|||"))
    out["llama"] = fallback(normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]), None)
    out["mistral"] = fallback(None, pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first", split=False))
    out["metaspace"] = fallback(None, pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always", split=True))
    out["gemma2"] = fallback(normalizers.Replace(" ", "▁"), pre_tokenizers.Split(" ", "merged_with_previous"), ("<unk>", "<bos>", "<eos>"))
    out["phi3"] = fallback(normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]), None)
    out["phi3"].add_tokens([AddedToken("<|user|>", rstrip=True, normalized=False, special=True), AddedToken("<|end|>", rstrip=True, normalized=False, special=True),
                            AddedToken("word", single_word=True, normalized=False), AddedToken("<|left|>", lstrip=True, normalized=False)])
    out["lower"] = fallback(normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase(), normalizers.Strip(), normalizers.StripAccents()]),
                            pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Digits(), pre_tokenizers.Split(Regex("[,.;]"), "contiguous"),
                                                     pre_tokenizers.Split("-", "merged_with_next"), pre_tokenizers.Split("'", "removed")]))
    small = Tokenizer(models.BPE())    # for the models of the fixtures, whose vocabularies are small
    small.pre_tokenizer, small.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    small.train_from_iterator(["When Mary and John went to the store, John gave a drink to Mary"] * 9,
                              trainers.BpeTrainer(vocab_size=60, special_tokens=["<s>"], show_progress=False))
    small.post_processor = template("<s>", 0)
    out["small"] = small
    words = Tokenizer(models.WordLevel({w: i for i, w in enumerate(["<unk>", "When", "Mary", "and", "John", "gave", ",", "it"])}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    out["words"] = words
    return out


SPICES = ["<|endoftext|>", "<s>", "<|user|>", "<|end|> \n x", "word", "keyword words word", " <|left|>", "<0x0A>", "▁", "▁▁a", "été", "e\u0301te\u0301", "été", "\u00a0", "\u0085", "\u180e",
          "\u2028", "\u3000", "\u200b", "\ufeff", "İstanbul", "ſ'ſ", "'S'LL", "1234567", "٣٤٥", "Ⅷ½²", "\r\n\r\n", "\n \n", "\t\t", "  ", "     ", "don't", "I'VE", "<|im_start|>", "|||EMAIL|||",
          "\u1100\u1161\u11a8", "각", "ﬁ", "Å", "K", "\U0001d538", "<unk>", "<bos>", "\x7f", "\x1b"]


def random_text(r):
    out = []
    for _ in range(r.randint(0, 12)):
        kind = r.random()
        if kind < 0.3:
            line = r.choice(CORPUS)
            at = r.randrange(len(line))
            out.append(line[at:at + r.randint(1, 30)])
        elif kind < 0.5:
            out.append(r.choice(SPICES))
        elif kind < 0.6:
            out.append(" " * r.randint(1, 9))
        elif kind < 0.7:
            out.append(str(r.randrange(10 ** r.randint(1, 12))))
        else:
            top = r.choice([0x80, 0x250, 0x600, 0x3000, 0xd800, 0x20000, 0x110000])
            low = r.choice([1, 0x20, 0x80, 0x300, 0x1f300]) if top > 0x1f300 else 1
            for _ in range(r.randint(1, 6)):
                c = r.randrange(low, top)
                out.append(chr(c) if not 0xd800 <= c < 0xe000 else "a")
    return "".join(out)


def fuzz(program, count):
    import unicodedata
    for name in sorted(n[:-5] for n in os.listdir(FOLDER) if n.endswith(".json")):
        path, r = os.path.join(FOLDER, name + ".json"), random.Random(name)
        theirs = Tokenizer.from_file(path)
        texts = [random_text(r) for _ in range(count)]
        for special in (0, 1):
            given = b"".join(struct.pack("<I", len(t.encode())) + t.encode() for t in texts)
            raw = subprocess.run([program, path, str(special)], input=given, stdout=subprocess.PIPE, check=True).stdout
            at, wrong, young = 0, 0, 0
            for text in texts:
                n, = struct.unpack_from("<I", raw, at)
                ids = list(struct.unpack_from(f"<{n}i", raw, at + 4))
                at += 4 + 4 * n
                want = theirs.encode(text, add_special_tokens=bool(special)).ids
                if ids == want:
                    continue
                # Unicode's newest letters: libraries differ by their version of it
                if any(unicodedata.category(c) == "Cn" or not unicodedata.ucd_3_2_0.category(c) != "Cn" for c in text):
                    young += 1
                    if young < 3 and os.environ.get("SHOW"):
                        print(name, repr(text), [hex(ord(c)) for c in text if unicodedata.ucd_3_2_0.category(c) == "Cn"])
                    continue
                wrong += 1
                if wrong < 4:
                    print(name, special, repr(text), ids, want)
            print(f"{name}, special {special}: {count} texts, {wrong} differ, {young} of letters newer than Unicode 3.2")


def main():
    os.makedirs(FOLDER, exist_ok=True)
    for name, tokenizer in make().items():
        path = os.path.join(FOLDER, name + ".json")
        tokenizer.save(path, pretty=False)
        theirs, r = Tokenizer.from_file(path), random.Random(name)
        texts = ["", " ", *CORPUS, *SPICES, *(random_text(r) for _ in range(60))]
        with open(os.path.join(FOLDER, name + ".cases"), "w") as to:
            for text in texts:
                to.write(json.dumps([text, theirs.encode(text).ids, theirs.encode(text, add_special_tokens=False).ids]) + "\n")
        print(name, os.path.getsize(path))


if __name__ == "__main__":
    if sys.argv[1:2] == ["fuzz"]:
        fuzz(sys.argv[2], int(sys.argv[3]))
    else:
        main()
