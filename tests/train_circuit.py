#!/usr/bin/env python3
"""Trains the small GPT-2 of tests/fixtures/induction, a model whose circuit is known.

    train_circuit.py [--steps N] [--out DIRECTORY]        needs torch, transformers and numpy; a few minutes on one core

The task is induction. A sequence is tokens that have not occurred before, among them now and then a cue: a token A that did occur,
followed by the token B that followed it then. At a cue the model must answer B. Two heads in different layers do that together: one
copies, at B's position, which token came before (A); a later one finds, from the cue, the position whose previous token was A and copies
what stands there. Nothing else can be learned: tokens, places and distances are random.

The seed is fixed and one thread is used, so that one version of PyTorch on one kind of processor makes the same file again.
Written with torch 2.15, transformers 5.23."""
import argparse
import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
import numpy as np
import torch
from torch.nn import functional
from transformers import GPT2Config, GPT2LMHeadModel

VOCABULARY, POSITIONS = 64, 32


def sequence(random):
    """Tokens [POSITIONS] and, for each position, the answer expected there or -100."""
    fresh = list(random.permutation(VOCABULARY))
    tokens, answers, pairs = [fresh.pop()], [], []
    while len(tokens) < POSITIONS:
        if len(pairs) > 2 and random.random() < 0.4:
            a, b = pairs.pop(random.integers(len(pairs)))
            tokens += [a, b]
            answers += [-100, b]
        else:
            token = fresh.pop()
            if not answers or answers[-1] == -100:
                pairs.append((tokens[-1], token))            # neighbours that are both new
            tokens.append(token)
            answers.append(-100)
    return tokens[:POSITIONS], (answers + [-100, -100])[:POSITIONS]


def sequences(count, seed):
    random = np.random.default_rng(seed)
    made = [sequence(random) for _ in range(count)]
    return torch.tensor(np.array([m[0] for m in made])), torch.tensor(np.array([m[1] for m in made]))


def loss_of(model, tokens, answers):
    logits = model(tokens).logits
    return functional.cross_entropy(logits.flatten(0, 1), answers.flatten()), logits


def accuracy(model, tokens, answers):
    with torch.inference_mode():
        right = loss_of(model, tokens, answers)[1].argmax(-1) == answers
    return (right & (answers >= 0)).sum().item() / (answers >= 0).sum().item()


def build():
    return GPT2LMHeadModel(GPT2Config(
        vocab_size=VOCABULARY, n_positions=POSITIONS, n_embd=64, n_layer=3, n_head=4, n_inner=64, resid_pdrop=0, embd_pdrop=0,
        attn_pdrop=0, bos_token_id=None, eos_token_id=None))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--out", default=os.path.join(os.path.dirname(os.path.abspath(__file__)), "fixtures", "induction"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(1)
    model = build()
    tokens, answers = sequences(60000, seed=1)
    held_out = sequences(1000, seed=2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.1, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, given.steps, pct_start=0.1)
    for step in range(given.steps):
        rows = torch.randint(len(tokens), (128,))
        loss, _ = loss_of(model, tokens[rows], answers[rows])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if (step + 1) % 250 == 0:
            print(f"step {step + 1}: loss {loss.item():.4f}, accuracy {accuracy(model, *held_out):.4f}", flush=True)
    model.eval()
    model.save_pretrained(given.out)
    print(f"accuracy on 1000 sequences not trained on: {accuracy(model, *held_out):.4f}")


if __name__ == "__main__":
    main()
