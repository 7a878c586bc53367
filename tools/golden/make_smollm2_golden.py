#!/usr/bin/env python3
"""What the real SmolLM2-135M-Instruct says, by an independent reader and forward pass: tests/golden/smollm2.json.

    tools/fetch_smollm2.sh
    .venv/bin/python tools/golden/make_smollm2_golden.py .models/smollm2.gguf tests/golden/smollm2.json

Reads the GGUF file and multiplies its blocks out with numpy, builds its byte-level tokenizer with Hugging Face's `tokenizers`, runs the
model in PyTorch in f32 without any cache, and stores: the token ids of some texts, the eight largest logits after each, the 64 most
probable tokens after the first text one after the other, and the perplexity of a paragraph. Needs torch, numpy and tokenizers.
"""

import json
import struct
import sys

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

TEXTS = ["The capital of France is", "Water boils at 100 degrees", "Interferons are"]
PARAGRAPH = (
    "The cell is the smallest unit of life that can live on its own. All living things are made of one or more cells. A cell is wrapped in "
    "a membrane, holds its genes as DNA, and makes proteins from them. White blood cells defend the body against infection: some of them "
    "swallow bacteria, others make antibodies, and others kill cells that a virus has entered."
)
FORMATS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}


def read_gguf(path):
    data = open(path, "rb").read()
    at = 4

    def take(fmt):
        nonlocal at
        (value,) = struct.unpack_from("<" + fmt, data, at)
        at += struct.calcsize("<" + fmt)
        return value

    def text():
        nonlocal at
        size = take("Q")
        at += size
        return data[at - size : at].decode()

    def value(kind):
        if kind == 8:
            return text()
        if kind == 9:
            inner, count = take("I"), take("Q")
            return [value(inner) for _ in range(count)]
        return take(FORMATS[kind])

    assert data[:4] == b"GGUF" and take("I") == 3
    tensors, pairs = take("Q"), take("Q")
    metadata = {}
    for _ in range(pairs):
        key = text()
        metadata[key] = value(take("I"))
    places = []
    for _ in range(tensors):
        name = text()
        shape = [take("Q") for _ in range(take("I"))][::-1]
        places.append((name, shape, take("I"), take("Q")))
    start = -(-at // 32) * 32
    weights = {}
    for name, shape, kind, offset in places:
        count = int(np.prod(shape))
        raw = np.frombuffer(data, np.uint8, offset=start + offset)
        if kind == 0:
            numbers = raw[: 4 * count].view("<f4")
        elif kind == 8:
            blocks = raw[: count // 32 * 34].reshape(-1, 34)
            numbers = blocks[:, :2].copy().view("<f2").astype(np.float32) * blocks[:, 2:].copy().view(np.int8)
        elif kind == 3:
            blocks = raw[: count // 32 * 20].reshape(-1, 20)
            scale, least = (blocks[:, i : i + 2].copy().view("<f2").astype(np.float32) for i in (0, 2))
            numbers = scale * np.concatenate([blocks[:, 4:] & 15, blocks[:, 4:] >> 4], 1) + least
        else:
            raise SystemExit(f"{name}: type {kind}")
        weights[name] = torch.from_numpy(np.ascontiguousarray(numbers, np.float32).reshape(shape).copy())
    return metadata, weights


def tokenizer_of(metadata):
    vocabulary = {token: index for index, token in enumerate(metadata["tokenizer.ggml.tokens"])}
    merges = [tuple(merge.split(" ")) for merge in metadata["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def logits_of(metadata, weights, ids):
    """`[tokens, vocabulary]`. GGUF's order of the q and k rows makes neighbours turn together."""
    size = lambda key: metadata["llama." + key]
    heads, groups, eps = size("attention.head_count"), size("attention.head_count_kv"), size("attention.layer_norm_rms_epsilon")
    width, tokens = size("embedding_length"), len(ids)
    head = width // heads
    norm = lambda x, w: x / torch.sqrt((x * x).mean(-1, keepdim=True) + eps) * w
    angle = torch.arange(tokens)[:, None].double() * size("rope.freq_base") ** (-torch.arange(0, head, 2).double() / head)
    cos, sin = angle.cos().float()[:, None], angle.sin().float()[:, None]

    def turned(x):
        a, b = x[..., 0::2], x[..., 1::2]
        return torch.stack([a * cos - b * sin, b * cos + a * sin], -1).flatten(-2)

    x = weights["token_embd.weight"][ids]
    future = torch.ones(tokens, tokens, dtype=torch.bool).triu(1)
    for layer in range(size("block_count")):
        w = lambda name: weights[f"blk.{layer}.{name}.weight"]
        y = norm(x, w("attn_norm"))
        q = turned((y @ w("attn_q").T).view(tokens, heads, head))
        k = turned((y @ w("attn_k").T).view(tokens, groups, head)).repeat_interleave(heads // groups, 1)
        v = (y @ w("attn_v").T).view(tokens, groups, head).repeat_interleave(heads // groups, 1)
        scores = torch.einsum("ihd,jhd->hij", q, k) / head**0.5
        context = torch.einsum("hij,jhd->ihd", scores.masked_fill(future, -torch.inf).softmax(-1), v)
        x = x + context.reshape(tokens, -1) @ w("attn_output").T
        y = norm(x, w("ffn_norm"))
        x = x + (F.silu(y @ w("ffn_gate").T) * (y @ w("ffn_up").T)) @ w("ffn_down").T
    return norm(x, weights["output_norm.weight"]) @ weights["token_embd.weight"].T


@torch.inference_mode()
def main():
    metadata, weights = read_gguf(sys.argv[1])
    tokenizer = tokenizer_of(metadata)
    texts = []
    for text in TEXTS:
        ids = tokenizer.encode(text).ids
        top = logits_of(metadata, weights, ids)[-1].topk(8)
        texts.append({"text": text, "ids": ids, "top_ids": top.indices.tolist(), "top_logits": top.values.tolist()})
    ids = list(texts[0]["ids"])
    for _ in range(64):
        ids.append(int(logits_of(metadata, weights, ids)[-1].argmax()))
    greedy = ids[len(texts[0]["ids"]) :]
    paragraph = tokenizer.encode(PARAGRAPH).ids
    loss = F.cross_entropy(logits_of(metadata, weights, paragraph)[:-1], torch.tensor(paragraph[1:]))
    golden = {
        "script": "tools/golden/make_smollm2_golden.py", "torch": torch.__version__, "model": "SmolLM2-135M-Instruct, Q4_1",
        "texts": texts, "greedy": greedy, "greedy_text": tokenizer.decode(greedy),
        "paragraph": PARAGRAPH, "paragraph_ids": paragraph, "perplexity": float(loss.exp()),
    }
    with open(sys.argv[2], "w") as file:
        json.dump(golden, file, indent=1)
        file.write("\n")
    print(golden["greedy_text"])
    print("perplexity", golden["perplexity"])


if __name__ == "__main__":
    main()
