#!/usr/bin/env python3
"""Makes tests/fixtures/tokenizers/sentencepiece_*.gguf: vocabularies trained by the package `sentencepiece`, as llama.cpp's conversion writes them into GGUF
files (no weights), and NAME.cases: lines of JSON, [text, ids with special tokens, ids without], from the same package.

    make_sentencepiece.py                  files and cases
    make_sentencepiece.py fuzz PROGRAM N   N random texts for each file beside PROGRAM (tests/fuzz/tokens.c)

Run with gguf 0.19, sentencepiece 0.2.3.
"""
import io
import json
import os
import random
import re
import struct
import subprocess
import sys

import gguf
import sentencepiece

from make_tokenizers import CORPUS, FOLDER, SPICES, random_text

# prefix: a space before the text; own: user-defined pieces; special: tokens beside <s> and </s>; takes: those that take white space behind them
KINDS = {"llama": dict(prefix=True, own=[], special=[], takes=[], adds=(True, False), architecture="llama"),
         "gemma2": dict(prefix=False, own=["\n\n", "\n", "▁▁", "▁▁▁", "<tag>"], special=[], takes=[], adds=(True, False), architecture="gemma2"),
         "phi3": dict(prefix=True, own=[], special=["<|user|>", "<|end|>", "<|endoftext|>"], takes=["<|user|>", "<|end|>", "</s>"], adds=(False, True),
                      architecture="phi3")}


class Vocabulary:
    def __init__(self, name):
        made, k = io.BytesIO(), KINDS[name]
        lines = [line for text in CORPUS * 3 for line in text.split("\n")] + ["aaaa aaaaaaa aa aaa", "hahaha haha hahahahaha"] * 3
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines), model_writer=made, vocab_size=620, model_type="bpe", byte_fallback=True, character_coverage=0.98,
            normalization_rule_name="identity", remove_extra_whitespaces=False, add_dummy_prefix=k["prefix"], user_defined_symbols=k["own"], split_digits=True,
            allow_whitespace_only_pieces=True, num_threads=1, minloglevel=2)
        self.model = sentencepiece.SentencePieceProcessor(model_proto=made.getvalue())
        self.kind, n = k, self.model.get_piece_size()
        self.special = {t: i for t, i in [("<unk>", 0), ("<s>", 1), ("</s>", 2)] + [(t, n + i) for i, t in enumerate(k["special"])]}

    def write(self, path):
        writer = gguf.GGUFWriter(path, self.kind["architecture"])
        tokens, scores, types = [], [], []
        for i in range(self.model.get_piece_size()):
            token, kind = self.model.id_to_piece(i), 1
            if self.model.is_unknown(i):
                kind = 2
            elif self.model.is_control(i):
                kind = 3
            elif self.model.is_byte(i):
                kind = 6
            elif token in self.kind["own"]:
                kind, token = 4, token.replace("▁", " ")
            tokens.append(token.encode())
            scores.append(self.model.get_score(i))
            types.append(kind)
        for token in self.kind["special"]:
            tokens.append(token.encode())
            scores.append(-1000.0)
            types.append(3)
        writer.add_tokenizer_model("llama")
        writer.add_tokenizer_pre("default")
        writer.add_token_list(tokens)
        writer.add_token_scores(scores)
        writer.add_token_types(types)
        writer.add_bos_token_id(1)
        writer.add_eos_token_id(2)
        writer.add_unk_token_id(0)
        writer.add_add_bos_token(self.kind["adds"][0])
        writer.add_add_eos_token(self.kind["adds"][1])
        writer.add_add_space_prefix(self.kind["prefix"])
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.close()

    def encode(self, text, special):
        """Special tokens stand as they are; what lies between is SentencePiece's."""
        names = "|".join(re.escape(t) + (r"[^\S\x1c-\x1f]*" if t in self.kind["takes"] else "") for t in sorted(self.special, key=len, reverse=True))
        ids = []
        for part in re.split(f"({names})", text):
            name = part.strip() if part.strip() in self.special and re.fullmatch(names, part) else None
            ids += [self.special[name]] if name else self.model.encode(part)
        bos, eos = self.kind["adds"] if special else (False, False)
        return [1] * bos + ids + [2] * eos


def texts_of(name, count):
    r = random.Random(name)
    mine = [t for t in KINDS[name]["own"] + KINDS[name]["special"] + ["<s>", "</s>", "a" * 7, "ha" * 5 + "h", "▁", "<0x0A>"] for _ in range(2)]
    for _ in range(count):
        text = random_text(r)
        while r.random() < 0.4:
            at = r.randint(0, len(text))
            text = text[:at] + r.choice(mine) + text[at:]
        if r.random() < 0.1:
            text = "".join(r.choice("ah ") for _ in range(r.randint(1, 40)))
        yield text


def fuzz(program, count):
    for name in KINDS:
        path, vocabulary = os.path.join(FOLDER, f"sentencepiece_{name}.gguf"), Vocabulary(name)
        texts = list(texts_of(name, count))
        for special in (0, 1):
            given = b"".join(struct.pack("<I", len(t.encode())) + t.encode() for t in texts)
            raw = subprocess.run([program, path, str(special)], input=given, stdout=subprocess.PIPE, check=True).stdout
            at, wrong = 0, 0
            for text in texts:
                n, = struct.unpack_from("<i", raw, at)
                ids = list(struct.unpack_from(f"<{max(n, 0)}i", raw, at + 4))
                at += 4 + 4 * max(n, 0)
                want = vocabulary.encode(text, special)
                if ids != want:
                    wrong += 1
                    if wrong < 4:
                        print(name, special, repr(text), ids, want)
            print(f"{name}, special {special}: {count} texts, {wrong} differ")


def main():
    for name in KINDS:
        path, vocabulary = os.path.join(FOLDER, f"sentencepiece_{name}.gguf"), Vocabulary(name)
        vocabulary.write(path)
        with open(path[:-5] + ".cases", "w") as to:
            for text in ["", " ", *CORPUS, *SPICES, *texts_of(name, 120)]:
                to.write(json.dumps([text, vocabulary.encode(text, True), vocabulary.encode(text, False)]) + "\n")
        print(name, os.path.getsize(path))


if __name__ == "__main__":
    if sys.argv[1:2] == ["fuzz"]:
        fuzz(sys.argv[2], int(sys.argv[3]))
    else:
        main()
