#!/usr/bin/env python3
"""Golden file of stage 2: cells as rows of a language model, texts as cells, the three losses, and every parameter gradient.

    python make_cell_language_golden.py tests/golden/cell_language_tiny.safetensors

Plain PyTorch, written for this project; needs `torch`, `numpy` and `safetensors`. Everything is computed in f64 from parameters and
inputs that are exactly representable in f32, and stored as f32 (indices as i32). Cell encoder, Q-Former and language model are those of
make_encoder_golden.py, make_qformer_golden.py and make_language_golden.py, whose constants count here too.

    Z = queries over ln_gene(encoder(cell));  C = llm_proj(Z) = W2 relu(W1 Z + b1) + b2
    rows of the slots of a cell-first sequence are replaced by C; tied embeddings, the rows of new tokens below those of the base
    h = last hidden states, after the norm, at the slots of the text-first sequences

Losses (`loss.OBJECTIVE`, `grad.OBJECTIVE.NAME`)
    language                next-token cross-entropy, mean over the labels of the batch
    reconstruction          mean((h - stopgrad(C))^2)
    expression              masked MSE of the expression decoder, over the keys stopgrad(C) of all cells and the keys h of the
                            text-first ones together
    expression_first        the same with the first key of each alone
    expression_neighbours   the same, with neighbours behind h: stopgrad(llm_proj(pooled)), with logit bias log softmax(sim / 0.25);
                            the second text-first item has had its neighbours dropped
    expression_counts       as `expression`, for a decoder of distributions: -ln P(count), weighted mean, of a zero-inflated negative
                            binomial with ln mean = output 0 + log_size, zero logit = output 1, ln theta a gene. Its last product has
                            two outputs, and its genes have readouts and biases: `counts.NAME` are the parameters that differ
    joint                   0.5 language + 2 reconstruction + 0.25 expression_neighbours
Gradients that are zero everywhere are not stored: metadata `zero_grads` names them.
"""

import json
import math
import sys

import make_language_golden as llama
import make_qformer_golden as cells
import torch
import torch.nn.functional as F
from make_encoder_golden import LAYERS, PAD, VOCAB, Encoder, make_params
from safetensors.torch import save_file

SEED = 2611
QUERIES, MIDDLE, GENE_DIM, GENE_HEADS = cells.QUERIES, 12, 32, 4
BOS, EOS, IGNORE = 1, 2, -100
BASE = llama.VOCAB
PAD_TOKEN, OPEN, SLOT, CLOSE = BASE, BASE + 1, BASE + 2, BASE + 2 + QUERIES
NEW = QUERIES + 3
# Words of each text, and whether the cell comes first.
SEQUENCES = [(5, True), (7, False), (3, False), (2, True)]
GENES, TARGETS, NEIGHBOURS, TEMPERATURE = 9, [9, 5, 8, 0], 3, 0.25
PROJECTION = ("llm_proj.fc1", "llm_proj.fc2")


def make_language(gen):
    """Under Hugging Face's names; the rows of new tokens as PEFT calls them."""
    params = llama.make_params(gen)
    del params["lm_head.weight"]
    rows = (torch.randn(NEW, llama.WIDTH, generator=gen, dtype=torch.float64) * 0.3).float().double().requires_grad_()
    return params | {"model.embed_tokens.token_adapter.trainable_tokens_delta": rows}


def make_rest(gen):
    """Projection and expression decoder."""
    width = GENE_DIM
    shapes = {
        "llm_proj.fc1": (MIDDLE, cells.WIDTH),
        "llm_proj.fc2": (llama.WIDTH, MIDDLE),
        "expr_decoder.cell_proj": (2 * width, llama.WIDTH),
        "expr_decoder.cross_attn.out_proj": (width, width),
        "expr_decoder.mlp.0": (width, 2 * width),
        "expr_decoder.mlp.2": (1, width),
    }

    def normal(*shape):
        return torch.randn(*shape, generator=gen, dtype=torch.float32)

    params = {}
    for name, shape in shapes.items():
        params[name + ".weight"] = 1.5 * shape[1] ** -0.5 * normal(*shape)
        params[name + ".bias"] = 0.2 * normal(shape[0])
    params["counts.expr_decoder.mlp.2.weight"] = width**-0.5 * normal(2, width)
    params["counts.expr_decoder.mlp.2.bias"] = 0.2 * normal(2)
    params["counts.expr_decoder.log_theta"] = normal(VOCAB, 1)
    params["counts.expr_decoder.readout.weight"] = width**-0.5 * normal(VOCAB, width)
    params["counts.expr_decoder.gene_bias.weight"] = 0.3 * normal(VOCAB, 2)
    params["expr_decoder.gene_embed.weight"] = normal(VOCAB, width)
    params["expr_decoder.cross_attn.in_proj_weight"] = 1.5 * width**-0.5 * normal(3 * width, width)
    params["expr_decoder.cross_attn.in_proj_bias"] = 0.2 * normal(3 * width)
    return {name: value.double().requires_grad_() for name, value in params.items()}


def make_sequences(gen):
    block = [OPEN, *range(SLOT, SLOT + QUERIES), CLOSE]
    tokens, labels, slots = [], [], []
    for words, cell_first in SEQUENCES:
        text = torch.randint(3, BASE, (words,), generator=gen).tolist()
        if cell_first:
            tokens.append([BOS, *block, *text, EOS])
            labels.append([IGNORE] * (len(block) + 1) + text + [EOS])
            slots.append(2)
        else:
            tokens.append([BOS, *text, *block, EOS])
            labels.append([IGNORE] * (words + 1) + [OPEN] + [IGNORE] * (len(block) - 1) + [EOS])
            slots.append(words + 2)
    lengths = [len(row) for row in tokens]
    longest = max(lengths)
    return {
        "token_ids": torch.tensor([row + [PAD_TOKEN] * (longest - len(row)) for row in tokens]),
        "labels": torch.tensor([row + [IGNORE] * (longest - len(row)) for row in labels]),
        "token_lengths": torch.tensor(lengths),
        "slots_at": torch.tensor(slots),
        "cell_first": torch.tensor([int(first) for _, first in SEQUENCES]),
    }


def make_expression(gen):
    generated = sum(not first for _, first in SEQUENCES)
    real = torch.arange(GENES)[None] < torch.tensor(TARGETS)[:, None]
    genes = torch.stack([torch.randperm(PAD, generator=gen)[:GENES] for _ in SEQUENCES])
    targets = torch.empty(genes.shape).exponential_(0.7, generator=gen)
    targets = torch.where(torch.rand(genes.shape, generator=gen) < 0.4, 0.0, targets)
    return {
        "target_genes": torch.where(real, genes, PAD),
        "targets": targets.double(),
        "target_mask": real.double(),
        "counts": torch.where(targets > 0, (3 * targets).round() + 1, 0.0).double(),
        "count_weights": torch.where(targets > 0, 1.0, 2.5).double() * real,
        "log_sizes": (0.5 * torch.randn(len(SEQUENCES), generator=gen)).double(),
        "neighbours": torch.randn(generated, NEIGHBOURS, cells.WIDTH, generator=gen).double(),
        "similarities": (0.5 * torch.randn(generated, NEIGHBOURS, generator=gen)).double(),
        "neighbour_counts": torch.tensor([NEIGHBOURS, 0]),
    }


def decode(params, keys, bias, genes, other=""):
    """`keys` [items, keys, H], `bias` [items, keys], `genes` [items, genes] -> [items, genes, outputs]."""
    p = lambda name: params["expr_decoder." + name]
    k, v = F.linear(keys, p("cell_proj.weight"), p("cell_proj.bias")).chunk(2, -1)
    gene = F.embedding(genes, p("gene_embed.weight"))
    weights, biases = p("cross_attn.in_proj_weight").chunk(3), p("cross_attn.in_proj_bias").chunk(3)

    def heads(index, x):
        return F.linear(x, weights[index], biases[index]).unflatten(-1, (GENE_HEADS, -1)).transpose(1, 2)

    scores = heads(0, gene) @ heads(1, k).transpose(-1, -2) / math.sqrt(GENE_DIM // GENE_HEADS) + bias[:, None, None]
    seen = (scores.softmax(-1) @ heads(2, v)).transpose(1, 2).flatten(2)
    context = F.linear(seen, p("cross_attn.out_proj.weight"), p("cross_attn.out_proj.bias"))
    hidden = F.relu(F.linear(torch.cat([context, gene], -1), p("mlp.0.weight"), p("mlp.0.bias")))
    last = lambda name: params[f"{other}expr_decoder.{name}"]
    output = F.linear(hidden, last("mlp.2.weight"), last("mlp.2.bias"))
    if other:
        read = (last("readout.weight")[genes] * seen).sum(-1)
        output = output + last("gene_bias.weight")[genes] + F.pad(read[..., None], (0, output.shape[-1] - 1))
    return output


def count_loss(log_mean, zero_logit, log_theta, counts, weights):
    mu, theta, pi = log_mean.exp(), log_theta.exp(), zero_logit.sigmoid()
    lgamma = torch.lgamma
    log_nb = lgamma(counts + theta) - lgamma(theta) - lgamma(counts + 1)
    log_nb = log_nb + theta * (theta / (theta + mu)).log() + counts * (mu / (theta + mu)).log()
    log_p = torch.where(counts == 0, (pi + (1 - pi) * log_nb.exp()).log(), (1 - pi).log() + log_nb)
    return -(weights * log_p).sum() / weights.sum()


def project(params, z):
    first, second = PROJECTION
    hidden = F.relu(F.linear(z, params[first + ".weight"], params[first + ".bias"]))
    return F.linear(hidden, params[second + ".weight"], params[second + ".bias"])


def evaluate(joint, encoder, language, rest, inp):
    out, loss = {}, {}
    _, features = encoder.encode(inp)
    qformer = cells.QFormer(joint, features, inp["lengths"])
    items = len(SEQUENCES)
    z, _ = qformer.run(QUERIES, None, torch.ones(items, QUERIES, QUERIES, dtype=torch.bool), torch.arange(items))
    c = project(rest, z)
    table = torch.cat([language["model.embed_tokens.weight"], language["model.embed_tokens.token_adapter.trainable_tokens_delta"]])

    hidden, pairs, slots = [], [], []
    for item, (_, cell_first) in enumerate(SEQUENCES):
        length, at = inp["token_lengths"][item], inp["slots_at"][item]
        x = table[inp["token_ids"][item, :length]]
        if cell_first:
            x = torch.cat([x[:at], c[item], x[at + QUERIES :]])
        h = llama.through(language, x)
        hidden.append(F.pad(h, (0, 0, 0, inp["token_ids"].shape[1] - length)))
        pairs.append(((h @ table.T)[:-1], inp["labels"][item, 1:length]))
        if not cell_first:
            slots.append(h[at : at + QUERIES])
    loss["language"] = F.cross_entropy(torch.cat([l for l, _ in pairs]), torch.cat([t for _, t in pairs]), ignore_index=IGNORE)
    text_first = torch.tensor([item for item, (_, cell_first) in enumerate(SEQUENCES) if not cell_first])
    h = torch.stack(slots)
    loss["reconstruction"] = F.mse_loss(h, c.detach()[text_first])

    genes, targets, mask = (torch.cat([inp[name], inp[name][text_first]]) for name in ("target_genes", "targets", "target_mask"))

    def expression(own, made, bias):
        predicted = decode(rest, torch.cat([own, made]), bias, genes).squeeze(-1)
        return predicted, (((predicted - targets) * mask) ** 2).sum() / mask.sum()

    rows = items + len(slots)
    out["prediction"], loss["expression"] = expression(c.detach(), h, torch.zeros(rows, QUERIES).double())
    said = decode(rest, torch.cat([c.detach(), h]), torch.zeros(rows, QUERIES).double(), genes, "counts.")
    log_theta = rest["counts.expr_decoder.log_theta"][genes].squeeze(-1)
    counts, weights, sizes = (torch.cat([inp[name], inp[name][text_first]]) for name in ("counts", "count_weights", "log_sizes"))
    loss["expression_counts"] = count_loss(said[..., 0] + sizes[:, None], said[..., 1], log_theta, counts, weights)
    out["log_mean"], out["zero_logit"], out["log_theta"] = said[..., 0], said[..., 1], log_theta
    _, loss["expression_first"] = expression(c.detach()[:, :1], h[:, :1], torch.zeros(rows, 1).double())
    neighbours = project(rest, inp["neighbours"]).detach()
    bias = (inp["similarities"] / TEMPERATURE).log_softmax(-1)
    counts = inp["neighbour_counts"]
    bias = torch.where(torch.arange(NEIGHBOURS)[None] < counts[:, None], bias, float("-inf"))
    absent = torch.full((items, NEIGHBOURS), float("-inf")).double()
    bias = torch.cat([torch.zeros(rows, QUERIES).double(), torch.cat([absent, bias])], 1)
    own = torch.cat([c.detach(), torch.zeros(items, NEIGHBOURS, llama.WIDTH).double()], 1)
    out["prediction_neighbours"], loss["expression_neighbours"] = expression(own, torch.cat([h, neighbours], 1), bias)
    loss["joint"] = 0.5 * loss["language"] + 2.0 * loss["reconstruction"] + 0.25 * loss["expression_neighbours"]
    return out | {"cells": c, "hidden": torch.stack(hidden), "slots": h}, loss


def main():
    torch.set_num_threads(1)
    gen = torch.Generator().manual_seed(SEED)
    heads = ("decoder.", "mvc_decoder.", "cls_decoder.")
    made = make_params(cells.CELL_WIDTH, cells.CELL_HIDDEN, gen).items()
    encoder = {name: value for name, value in made if not name.startswith(heads)}
    joint, language, rest = cells.joint_params(gen), make_language(gen), make_rest(gen)
    inp = {name: value for name, value in cells.make_inputs(gen).items() if name in ("gene_ids", "values", "lengths")}
    inp |= make_sequences(gen) | make_expression(gen)
    out, loss = evaluate(joint, Encoder(encoder, cells.CELL_HEADS), language, rest, inp)

    named = encoder | joint | {f"llm_model.{name}": value for name, value in language.items()} | rest
    named = {name.replace("gtm_head", "matching_head"): value for name, value in named.items()}
    tensors = {"param." + name: value for name, value in named.items()}
    tensors |= {"input." + name: value for name, value in inp.items()}
    tensors |= {"output." + name: value for name, value in out.items()}
    zero = []
    for objective, value in loss.items():
        tensors["loss." + objective] = value
        gradients = torch.autograd.grad(value, list(named.values()), retain_graph=True, allow_unused=True)
        for name, gradient in zip(named, gradients):
            if gradient is None or not gradient.any():
                zero.append(f"{objective}.{name}")
            else:
                tensors[f"grad.{objective}.{name}"] = gradient
        print(f"{objective:24s}{value.item():.9f}")

    def stored(tensor):
        tensor = tensor.detach()
        return (tensor.float() if tensor.is_floating_point() else tensor.int()).contiguous().clone()

    config = {
        "cell_vocabulary": VOCAB, "cell_pad": PAD, "cell_layers": LAYERS, "cell_width": cells.CELL_WIDTH,
        "cell_heads": cells.CELL_HEADS, "cell_hidden": cells.CELL_HIDDEN, "seq_len": max(cells.CELL_LENGTHS), "batch": len(SEQUENCES),
        "width": cells.WIDTH, "heads": cells.HEADS, "hidden": cells.HIDDEN, "layers": cells.DEPTH, "every": cells.EVERY,
        "words": cells.WORDS, "positions": cells.POSITIONS, "queries": QUERIES, "projection": cells.PROJECTION,
        "middle": MIDDLE, "gene_dim": GENE_DIM, "gene_heads": GENE_HEADS, "genes": GENES, "neighbours": NEIGHBOURS, "new_tokens": NEW,
        "language": {
            "hidden_size": llama.WIDTH, "intermediate_size": llama.WIDE, "num_hidden_layers": llama.LAYERS,
            "num_attention_heads": llama.HEADS, "num_key_value_heads": llama.KEY_HEADS, "head_dim": llama.HEAD, "vocab_size": BASE,
            "max_position_embeddings": 64, "rms_norm_eps": llama.EPS, "rope_theta": llama.THETA, "tie_word_embeddings": True,
            "bos_token_id": BOS, "eos_token_ids": [EOS],
        },
    }  # fmt: skip
    metadata = {
        "script": "tools/golden/make_cell_language_golden.py", "torch": torch.__version__, "seed": str(SEED),
        "compute": "f64 from f32-exact parameters and inputs, stored as f32", "config": json.dumps(config),
        "zero_grads": json.dumps(zero),
    }  # fmt: skip
    save_file({name: stored(tensor) for name, tensor in tensors.items()}, sys.argv[1], metadata)


if __name__ == "__main__":
    main()
