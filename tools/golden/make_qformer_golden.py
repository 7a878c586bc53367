#!/usr/bin/env python3
"""Golden file of the cell-text model: four passes through a Q-Former, the three losses, and every parameter gradient.

    python make_qformer_golden.py tests/golden/qformer_tiny.safetensors

Plain PyTorch, written for this project; needs `torch`, `numpy` and `safetensors`. Everything is computed in f64 from parameters and
inputs that are exactly representable in f32, and stored as f32 (indices as i32). The cell encoder is that of make_encoder_golden.py.

Parameters are stored as `param.NAME` under the names of scMMGPT's stage-1 checkpoint (`blip2qformer.`, `gtm_head`); gradients as
`grad.OBJECTIVE.NAME` under ours.

Q-Former: BERT (post-norm, erf GELU, LayerNorm eps 1e-12, no token types), dropout 0. Per layer
    x = LN(x + out(attention(x)));  query rows, every second layer: x = LN(x + out(cross(x, ln_gene(cells))))
    x = LN(x + W2 gelu(W1 x)), with one set of weights for query rows and one for text rows.
Passes (`output.PASS`, rows of padding 0)
    cells       queries
    texts       text
    matching    queries and text, all to all; pairs (cell 0, its text), (cell 0, its negative), (cell 1, its text), ..
    captioning  text with [DEC] first, causal, behind the cell pass's keys and values of every layer
Objectives (`loss.OBJECTIVE`)
    contrastive  both directions, items of one class no negatives of each other
    matching     negatives among other classes, drawn by weight softmax(row) + 1e-4 with Philox 4x32-10
                 (key: seed; counter: row, 0, step, site); the mean over queries of the head's logits
    captioning   next token, label smoothing 0.1; logits by the word table
    joint        0.5 contrastive (groups of 2, cells choose among texts, nobody masked) + 2 matching (only the own text excluded)
                 + 0.25 captioning
Gradients that are zero everywhere are not stored: metadata `zero_grads` names them.
"""

import argparse
import json
import math

import numpy as np
import torch
import torch.nn.functional as F
from make_encoder_golden import CLS, LAYERS, PAD, VOCAB, Encoder, make_params
from safetensors.torch import save_file

CELL_WIDTH, CELL_HEADS, CELL_HIDDEN = 24, 3, 16
WIDTH, HEADS, HIDDEN, DEPTH, EVERY = 16, 2, 28, 4, 2
WORDS, POSITIONS, QUERIES, PROJECTION = 60, 12, 4, 10
DEC, WORD_CLS, WORD_SEP = WORDS - 1, 1, 2
CELL_LENGTHS, TEXT_LENGTHS, CLASSES = [9, 6, 11, 1], [8, 5, 3, 6], [4, 7, 4, 2]
TEMPERATURE, SMOOTHING, FLOOR = 0.125, 0.1, 1e-4
SEED, STEP, SITE = 77, 5, 5 << 16


def philox(counter, key):
    """Four words: Salmon et al. 2011, ten rounds."""
    counter, key = [int(word) for word in counter], [int(word) for word in key]
    for _ in range(10):
        first, second = counter[0] * 0xD2511F53, counter[2] * 0xCD9E8D57
        counter = [
            second >> 32 ^ counter[1] ^ key[0],
            second & 0xFFFFFFFF,
            first >> 32 ^ counter[3] ^ key[1],
            first & 0xFFFFFFFF,
        ]
        key = [(key[0] + 0x9E3779B9) & 0xFFFFFFFF, (key[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return counter


def draw_negatives(logits, classes):
    """One other text a cell, by cumulative weight."""
    chosen = []
    for row, line in enumerate(logits.detach().numpy()):
        weights = np.exp(line - line.max())
        weights = weights / weights.sum() + FLOOR
        weights[[classes[row] == other for other in classes]] = 0.0
        uniform = (philox((row, 0, STEP, SITE), (SEED, 0))[0] >> 8) / 2**24
        chosen.append(int(np.searchsorted(np.cumsum(weights), uniform * weights.sum(), side="right")))
    return chosen


def joint_params(gen):
    """Under scMMGPT's names, without `blip2qformer.`."""
    shapes = {"query_tokens": (1, QUERIES, WIDTH), "ln_gene": CELL_WIDTH}
    bert = "Qformer.bert."
    shapes[bert + "embeddings.word_embeddings.weight"] = (WORDS, WIDTH)
    shapes[bert + "embeddings.position_embeddings.weight"] = (POSITIONS, WIDTH)
    shapes[bert + "embeddings.LayerNorm"] = WIDTH
    for index in range(DEPTH):
        layer = f"{bert}encoder.layer.{index}."
        for kind in ["attention"] + ["crossattention"] * (index % EVERY == 0):
            source = WIDTH if kind == "attention" else CELL_WIDTH
            shapes[f"{layer}{kind}.self.query"] = (WIDTH, WIDTH)
            shapes[f"{layer}{kind}.self.key"] = shapes[f"{layer}{kind}.self.value"] = (WIDTH, source)
            shapes[f"{layer}{kind}.output.dense"] = (WIDTH, WIDTH)
            shapes[f"{layer}{kind}.output.LayerNorm"] = WIDTH
        for suffix in ("", "_query"):
            shapes[f"{layer}intermediate{suffix}.dense"] = (HIDDEN, WIDTH)
            shapes[f"{layer}output{suffix}.dense"] = (WIDTH, HIDDEN)
            shapes[f"{layer}output{suffix}.LayerNorm"] = WIDTH
    head = "Qformer.cls.predictions."
    shapes |= {head + "transform.dense": (WIDTH, WIDTH), head + "transform.LayerNorm": WIDTH}
    shapes |= {"cell_proj": (PROJECTION, WIDTH), "text_proj": (PROJECTION, WIDTH), "gtm_head": (2, WIDTH)}

    def normal(*shape):
        return torch.randn(*shape, generator=gen, dtype=torch.float32)

    params = {}
    for name, shape in shapes.items():
        if isinstance(shape, int):
            params[name + ".weight"] = 1.0 + 0.2 * normal(shape)
            params[name + ".bias"] = 0.2 * normal(shape)
        elif name.endswith("weight") or name == "query_tokens":
            params[name] = normal(*shape)
        else:
            params[name + ".weight"] = shape[1] ** -0.5 * normal(*shape)
            params[name + ".bias"] = 0.2 * normal(shape[0])
    params[head + "bias"] = 0.2 * normal(WORDS)
    params["temperature"] = torch.tensor([TEMPERATURE])
    return {name: value.double().requires_grad_() for name, value in params.items()}


def make_inputs(gen):
    def padded(lengths, rows):
        width = max(lengths)
        return torch.arange(width)[None] < torch.tensor(lengths)[:, None], [rows() for _ in lengths]

    real, genes = padded(CELL_LENGTHS, lambda: torch.randperm(PAD, generator=gen)[: max(CELL_LENGTHS)])
    genes = torch.where(real, torch.stack(genes), PAD)
    genes[:, 0] = CLS
    values = torch.empty(genes.shape).exponential_(0.6, generator=gen)
    values[:, 0] = -2.0
    values[~real] = -2.0
    real, words = padded(TEXT_LENGTHS, lambda: torch.randint(3, DEC, (max(TEXT_LENGTHS),), generator=gen))
    words = torch.stack(words)
    words[:, 0] = WORD_CLS
    for text, length in enumerate(TEXT_LENGTHS):
        words[text, length - 1] = WORD_SEP
    words[~real] = 0
    return {
        "gene_ids": genes,
        "values": values.double(),
        "lengths": torch.tensor(CELL_LENGTHS),
        "token_ids": words,
        "text_lengths": torch.tensor(TEXT_LENGTHS),
        "classes": torch.tensor(CLASSES),
    }


class QFormer:
    def __init__(self, params, cells, cell_lengths):
        self.p = params
        self.cells = F.layer_norm(cells, (CELL_WIDTH,), params["ln_gene.weight"], params["ln_gene.bias"], 1e-5)
        self.cell_mask = torch.arange(cells.shape[1])[None] < cell_lengths[:, None]

    def linear(self, name, x):
        return F.linear(x, self.p[name + ".weight"], self.p[name + ".bias"])

    def norm(self, name, x):
        return F.layer_norm(x, (WIDTH,), self.p[name + ".weight"], self.p[name + ".bias"], 1e-12)

    def attention(self, name, x, keys, values, allowed):
        """`allowed` [item, row, key]; heads are contiguous columns."""

        def heads(rows):
            return rows.unflatten(-1, (HEADS, WIDTH // HEADS)).transpose(1, 2)

        scores = heads(self.linear(name + ".self.query", x)) @ heads(keys).transpose(-1, -2) / math.sqrt(WIDTH // HEADS)
        scores = scores.masked_fill(~allowed[:, None], float("-inf"))
        context = (scores.softmax(-1) @ heads(values)).transpose(1, 2).flatten(2)
        return self.norm(name + ".output.LayerNorm", x + self.linear(name + ".output.dense", context))

    def run(self, queries, words, allowed, cells=None, past=None):
        """Rows [queries, text] of every item through all layers; `cells` names each item's cell, `past` gives keys and values that come
        first. Returns the rows and each layer's own keys and values."""
        bert, parts = "Qformer.bert.", []
        if queries:
            parts.append(self.p["query_tokens"].expand(allowed.shape[0], -1, -1))
        if words is not None:
            position = self.p[bert + "embeddings.position_embeddings.weight"][: words.shape[1]]
            parts.append(F.embedding(words, self.p[bert + "embeddings.word_embeddings.weight"]) + position)
        x = self.norm(bert + "embeddings.LayerNorm", torch.cat(parts, 1))
        cache = []
        for index in range(DEPTH):
            layer = f"{bert}encoder.layer.{index}."
            keys, values = (self.linear(f"{layer}attention.self.{part}", x) for part in ("key", "value"))
            if past:
                keys, values = torch.cat([past[index][0], keys], 1), torch.cat([past[index][1], values], 1)
            cache.append((keys, values))
            x = self.attention(layer + "attention", x, keys, values, allowed)
            first, text = x[:, :queries], x[:, queries:]
            if queries and index % EVERY == 0:
                cross = layer + "crossattention"
                keys, values = (self.linear(f"{cross}.self.{part}", self.cells[cells]) for part in ("key", "value"))
                first = self.attention(cross, first, keys, values, self.cell_mask[cells][:, None].expand(-1, queries, -1))
            halves = []
            for rows, suffix in ((first, "_query"), (text, "")):
                wide = F.gelu(self.linear(f"{layer}intermediate{suffix}.dense", rows))
                halves.append(self.norm(f"{layer}output{suffix}.LayerNorm", rows + self.linear(f"{layer}output{suffix}.dense", wide)))
            x = torch.cat(halves, 1)
        return x, cache


def evaluate(params, encoder, inp):
    """Outputs of the passes, and the scalar loss of each objective."""
    _, cells = encoder.encode(inp)
    model = QFormer(params, cells, inp["lengths"])
    words, lengths, items = inp["token_ids"], inp["text_lengths"], len(CLASSES)
    seq = words.shape[1]
    real = torch.arange(seq)[None] < lengths[:, None]
    everyone = torch.arange(items)

    z, cache = model.run(QUERIES, None, torch.ones(items, QUERIES, QUERIES, dtype=torch.bool), everyone)
    h, _ = model.run(0, words, real[:, None].expand(-1, seq, -1))
    c = F.normalize(model.linear("cell_proj", z), dim=-1, eps=1e-12)
    t = F.normalize(model.linear("text_proj", h[:, 0]), dim=-1, eps=1e-12)
    logits = torch.einsum("iqd,jd->iqj", c, t).amax(1) / params["temperature"]

    def contrast(block, classes, symmetric):
        same = torch.tensor([[a == b for b in classes] for a in classes]) & ~torch.eye(len(classes), dtype=torch.bool)
        block = block.masked_fill(same, float("-inf"))
        target = torch.arange(len(classes))
        rows = F.cross_entropy(block, target)
        return (rows + F.cross_entropy(block.T, target)) / 2 if symmetric else rows

    def match(negatives):
        chosen = torch.tensor([text for pair in enumerate(negatives) for text in pair])
        see = torch.cat([torch.ones(2 * items, QUERIES, dtype=torch.bool), real[chosen]], 1)
        rows = QUERIES + seq
        x, _ = model.run(QUERIES, words[chosen], see[:, None].expand(-1, rows, -1), everyone.repeat_interleave(2))
        pairs = model.linear("gtm_head", x[:, :QUERIES]).mean(1)
        x = torch.where(see[..., None], x, 0.0)
        return x, pairs, F.cross_entropy(pairs, torch.tensor([1, 0] * items))

    out, loss = {}, {}
    negatives = draw_negatives(logits, CLASSES)
    out["matching"], out["matching.logits"], loss["matching"] = match(negatives)

    captions = words.clone()
    captions[:, 0] = DEC
    past = torch.ones(seq, QUERIES, dtype=torch.bool)
    causal = torch.cat([past, torch.ones(seq, seq, dtype=torch.bool).tril()], 1)
    # Rows of padding see padding, so that their softmax is defined; they count for nothing.
    allowed = causal[None].expand(items, -1, -1) & torch.cat([past[:1].expand(items, -1), real], 1)[:, None]
    y, _ = model.run(0, captions, allowed, past=cache)
    head = "Qformer.cls.predictions."
    guess = model.norm(head + "transform.LayerNorm", F.gelu(model.linear(head + "transform.dense", y)))
    guess = F.linear(guess, params["Qformer.bert.embeddings.word_embeddings.weight"], params[head + "bias"])
    following = torch.where(real, captions, -100)[:, 1:]
    loss["captioning"] = F.cross_entropy(guess[:, :-1].flatten(0, 1), following.flatten(), label_smoothing=SMOOTHING)

    loss["contrastive"] = contrast(logits, CLASSES, symmetric=True)
    groups = [contrast(logits[i : i + 2, i : i + 2], [0, 1], symmetric=False) for i in range(0, items, 2)]
    own = draw_negatives(logits, range(items))
    loss["joint"] = 0.5 * sum(groups) / len(groups) + 2.0 * match(own)[2] + 0.25 * loss["captioning"]

    out |= {"cells": z, "texts": torch.where(real[..., None], h, 0.0), "captioning": torch.where(real[..., None], y, 0.0)}
    out |= {"cell_embeddings": c, "text_embeddings": t, "logits": logits}
    return out, loss, {"negatives": negatives, "negatives_own": own}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output")
    parser.add_argument("--seed", type=int, default=2301)
    args = parser.parse_args()

    torch.set_num_threads(1)
    gen = torch.Generator().manual_seed(args.seed)
    heads = ("decoder.", "mvc_decoder.", "cls_decoder.")
    encoder = {name: value for name, value in make_params(CELL_WIDTH, CELL_HIDDEN, gen).items() if not name.startswith(heads)}
    params = joint_params(gen)
    inp = make_inputs(gen)
    out, loss, drawn = evaluate(params, Encoder(encoder, CELL_HEADS), inp)

    prefix = "blip2qformer."
    tensors = {f"param.{prefix}{name}": value for name, value in params.items()}
    tensors |= {f"param.{prefix}cell_encoder.model.{name}": value for name, value in encoder.items()}
    tensors |= {"input." + name: value for name, value in inp.items()}
    tensors |= {"output." + name: value for name, value in out.items()}
    zero, everything = [], params | encoder
    for objective, value in loss.items():
        tensors["loss." + objective] = value
        gradients = torch.autograd.grad(value, list(everything.values()), retain_graph=True, allow_unused=True)
        for name, gradient in zip(everything, gradients):
            name = name.replace("gtm_head", "matching_head")
            if gradient is None or not gradient.any():
                zero.append(f"{objective}.{name}")
            else:
                tensors[f"grad.{objective}.{name}"] = gradient

    def stored(tensor):
        tensor = tensor.detach()
        return (tensor.float() if tensor.is_floating_point() else tensor.int()).contiguous().clone()

    config = {
        "cell_vocabulary": VOCAB, "cell_pad": PAD, "cell_layers": LAYERS, "cell_width": CELL_WIDTH, "cell_heads": CELL_HEADS,
        "cell_hidden": CELL_HIDDEN, "width": WIDTH, "heads": HEADS, "hidden": HIDDEN, "layers": DEPTH, "every": EVERY, "words": WORDS,
        "positions": POSITIONS, "queries": QUERIES, "projection": PROJECTION, "batch": len(CLASSES), "seed": SEED, "step": STEP,
        "seq_len": max(CELL_LENGTHS), "text_len": max(TEXT_LENGTHS),
    } | drawn  # fmt: skip
    metadata = {
        "script": "tools/golden/make_qformer_golden.py",
        "torch": torch.__version__,
        "seed": str(args.seed),
        "compute": "f64 from f32-exact parameters and inputs, stored as f32",
        "config": json.dumps(config),
        "zero_grads": json.dumps(zero),
    }
    save_file({name: stored(tensor) for name, tensor in tensors.items()}, args.output, metadata)
    for objective, value in loss.items():
        print(f"{objective:14s}{value.item():.9f}")
    print(drawn)


if __name__ == "__main__":
    main()
