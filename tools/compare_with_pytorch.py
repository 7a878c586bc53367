#!/usr/bin/env python3
"""Times scmmgpt-engine and PyTorch on the same work, in turn, on the same number of CPU threads or on the same GPU.

    tools/setup-python.sh --torch
    .venv/bin/python tools/compare_with_pytorch.py [--only gemm,encoder,qformer,train,contrastive] [--threads 2] [--rounds 5] [--json FILE]
                                              [--device cuda] [--allow-tf32] [--bench FILE]

Builds the `peers` bench and asks it for one workload after the other (benches/workload/mod.rs says what they are). A round is
`--repeats` runs of ours and as many of PyTorch's, the order changing from round to round; a ratio is PyTorch's fastest run over our
fastest run in one round, and the table shows the median over the rounds, so that a neighbour on the machine disturbs both alike.
Above 1 we are faster.

Before the timing both sides compute the workload once from the same numbers (integer hashes, no files) and the results are compared:
values of a product, the cell embeddings of the encoder, loss and gradient norm of two training steps, the contrastive loss and its
gradients. A workload whose results differ is not timed, and the exit status is 1. This guards the comparison; the tests under tests/
are what says that the engine is right. The last columns say by how much either process grew at most in a first run, without the
inputs: PyTorch's results are in its number, ours were allocated before and are not.

PyTorch runs eagerly in the fastest form that is a few lines: F.linear, F.scaled_dot_product_attention and F.layer_norm under
torch.inference_mode(); training with fused AdamW; bf16 with weights and activations in bf16. No torch.compile.
GFLOP/s count the matrix products of the layers (training: three times forward) for both alike. `share` is ours over the rate of f32
fused multiply-adds on registers, the highest seen in the run: bf16 may exceed 1 where the CPU has instructions for it.
"""

import argparse
import json
import os
import pathlib
import statistics
import sys
import time

import numpy as np
import torch
import torch.nn.functional as F

from peers import Ours, agree, asked_for, digest, finish, in_a_row, make_parameters, mixed, placed, processor, uniform

STANDARD = [
    "gemm_f32_9600x512x512",
    "gemm_f32_1200x1536x512",
    "gemm_f32_4096x4096x4096",
    "gemm_bf16_9600x512x512",
    "gemm_bf16_1200x1536x512",
    "gemm_bf16_4096x4096x4096",
    "encoder_f32_b1_s1200",
    "encoder_f32_b8_s1200",
    "encoder_bf16_b8_s1200",
    "qformer_f32_b8_s1200",
    "train_f32_b8_s512",
    "contrastive_f32_4096x1x256",
    "contrastive_f32_512x32x256",
]

GENES, WIDTH, WIDE, LAYERS, HEADS = 60_697, 512, 512, 12, 8
PAD, CLS = GENES - 3, GENES - 2
QUERIES, QUERY_WIDTH, QUERY_WIDE, QUERY_HEADS, BERT_EPS = 32, 768, 3072, 12, 1e-12
BINS, HIDDEN, LARGEST_VALUE, EPS = 51, -1.0, 512.0, 1e-5
LEARNING_RATE, WEIGHT_DECAY, MAX_GRAD_NORM = 1e-4, 0.01, 1.0
TEMPERATURE = 0.1

DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}


class Gemm:
    """c = a b^T + bias."""

    def __init__(self, dtype, sizes):
        m, n, k = (int(size) for size in sizes.split("x"))
        self.a = uniform(1, (m, k), 1.0).to(dtype)
        self.b = uniform(2, (n, k), 1.0).to(dtype)
        self.bias = uniform(3, (n,), 1.0).to(dtype)

    @torch.inference_mode()
    def run(self):
        self.c = F.linear(self.a, self.b, self.bias)

    def check(self):
        self.run()
        return digest(self.c)


class Attention:
    """Self-attention of packed queries, keys and values, with the gradient of those where it trains."""

    def __init__(self, dtype, sizes, trains=True):
        batch, tokens, heads, size = (int(part[1:]) for part in sizes.split("_"))
        self.shape = (batch, tokens, 3, heads, size)
        self.qkv = uniform(1, (batch * tokens, 3 * heads * size), 1.0).to(dtype).requires_grad_(trains)
        self.dout = uniform(2, (batch * tokens, heads * size), 1.0).to(dtype)
        self.trains = trains

    def run(self):
        with torch.set_grad_enabled(self.trains):
            context = F.scaled_dot_product_attention(*self.qkv.view(self.shape).permute(2, 0, 3, 1, 4).unbind())
            self.out = context.transpose(1, 2).reshape(self.dout.shape)
            if self.trains:
                (self.dqkv,) = torch.autograd.grad(self.out, self.qkv, self.dout)

    def check(self):
        self.run()
        return digest(self.out) + (digest(self.dqkv) if self.trains else [])


class Attend(Attention):
    """Forward alone."""

    def __init__(self, dtype, sizes):
        super().__init__(dtype, sizes, trains=False)


def parameter_shapes(decoder):
    """Every parameter of the cell model under its checkpoint name."""
    shapes = {
        "encoder.embedding.weight": (GENES, WIDTH),
        "value_encoder.linear1.weight": (WIDTH, 1),
        "value_encoder.linear1.bias": (WIDTH,),
        "value_encoder.linear2.weight": (WIDTH, WIDTH),
        "value_encoder.linear2.bias": (WIDTH,),
    }
    norms = ["encoder.enc_norm", "value_encoder.norm"]
    for index in range(LAYERS):
        layer = f"transformer_encoder.layers.{index}"
        for name, out, fan_in in [
            ("self_attn.Wqkv", 3 * WIDTH, WIDTH),
            ("self_attn.out_proj", WIDTH, WIDTH),
            ("linear1", WIDE, WIDTH),
            ("linear2", WIDTH, WIDE),
        ]:
            shapes[f"{layer}.{name}.weight"] = (out, fan_in)
            shapes[f"{layer}.{name}.bias"] = (out,)
        norms += [f"{layer}.norm1", f"{layer}.norm2"]
    for norm in norms:
        shapes[f"{norm}.weight"] = shapes[f"{norm}.bias"] = (WIDTH,)
    if decoder:
        for index, out in [(0, WIDTH), (2, WIDTH), (4, 1)]:
            shapes[f"decoder.fc.{index}.weight"] = (out, WIDTH)
            shapes[f"decoder.fc.{index}.bias"] = (out,)
    return shapes


def qformer_shapes():
    """Every parameter of the Q-Former that queries pass, under its checkpoint name."""
    bert = "Qformer.bert."
    shapes, norms = {"query_tokens": (1, QUERIES, QUERY_WIDTH)}, [f"{bert}embeddings.LayerNorm"]
    for index in range(LAYERS):
        layer = f"{bert}encoder.layer.{index}"
        linear = [("intermediate_query.dense", QUERY_WIDE, QUERY_WIDTH), ("output_query.dense", QUERY_WIDTH, QUERY_WIDE)]
        for kind, source in [("attention", QUERY_WIDTH)] + [("crossattention", WIDTH)] * (index % 2 == 0):
            linear += [(f"{kind}.self.{part}", QUERY_WIDTH, source) for part in ("key", "value")]
            linear += [(f"{kind}.{part}", QUERY_WIDTH, QUERY_WIDTH) for part in ("self.query", "output.dense")]
            norms.append(f"{layer}.{kind}.output.LayerNorm")
        for name, out, fan_in in linear:
            shapes[f"{layer}.{name}.weight"] = (out, fan_in)
            shapes[f"{layer}.{name}.bias"] = (out,)
        norms.append(f"{layer}.output_query.LayerNorm")
    for norm in norms:
        shapes[f"{norm}.weight"] = shapes[f"{norm}.bias"] = (QUERY_WIDTH,)
    return shapes


def make_batch(cells, tokens, hides):
    """Genes, values, targets and mask: `batch` of benches/workload/cell.rs."""
    count = cells * tokens
    is_gene = np.arange(count) % tokens != 0
    ids = np.where(is_gene, mixed(11, count) % PAD, CLS).astype(np.int64)
    targets = np.where(is_gene, mixed(12, count) % BINS, 0).astype(np.float32)
    mask = (hides & is_gene & (mixed(13, count) % 5 < 2)).astype(np.float32)
    values = np.where(mask > 0, np.float32(HIDDEN), targets)
    return [placed(part.reshape(cells, tokens)) for part in (ids, values, targets, mask)]


def dims(sizes):
    """`b8_s1200` as two numbers."""
    return [int(part[1:]) for part in sizes.split("_")]


def encode(p, ids, values):
    """One vector a token."""

    def linear(name, x):
        return F.linear(x, p[f"{name}.weight"], p[f"{name}.bias"])

    def norm(name, x):
        return F.layer_norm(x, (WIDTH,), p[f"{name}.weight"], p[f"{name}.bias"], EPS)

    cells, tokens = ids.shape
    gene = norm("encoder.enc_norm", F.embedding(ids, p["encoder.embedding.weight"], padding_idx=PAD))
    value = F.relu(linear("value_encoder.linear1", values.clamp(max=LARGEST_VALUE).unsqueeze(-1)))
    x = gene + norm("value_encoder.norm", linear("value_encoder.linear2", value))
    for index in range(LAYERS):
        layer = f"transformer_encoder.layers.{index}"
        qkv = linear(f"{layer}.self_attn.Wqkv", x).view(cells, tokens, 3, HEADS, WIDTH // HEADS)
        context = F.scaled_dot_product_attention(*qkv.permute(2, 0, 3, 1, 4).unbind())
        context = context.transpose(1, 2).reshape(cells, tokens, WIDTH)
        x = norm(f"{layer}.norm1", x + linear(f"{layer}.self_attn.out_proj", context))
        x = norm(f"{layer}.norm2", x + linear(f"{layer}.linear2", F.relu(linear(f"{layer}.linear1", x))))
    return x


class Encoder:
    """A batch of cells to one vector a cell."""

    def __init__(self, dtype, sizes):
        self.ids, values, _, _ = make_batch(*dims(sizes), hides=False)
        self.values = values.to(dtype)
        self.parameters = {name: value.to(dtype) for name, value in make_parameters(parameter_shapes(decoder=False)).items()}

    @torch.inference_mode()
    def run(self):
        self.cells = encode(self.parameters, self.ids, self.values)[:, 0].contiguous()

    def check(self):
        self.run()
        return digest(self.cells)


class QFormer:
    """Features of a batch of cells to what the queries have read of them; self-attention's and each layer's cell projections packed."""

    def __init__(self, dtype, sizes):
        self.cells, self.tokens = dims(sizes)
        self.features = uniform(21, (self.cells, self.tokens, WIDTH), 1.0).to(dtype)
        self.p = {name: value.to(dtype) for name, value in make_parameters(qformer_shapes()).items()}
        for index in range(LAYERS):
            layer = f"Qformer.bert.encoder.layer.{index}"
            for packed, parts in [("attention.self", ("query", "key", "value")), ("crossattention.self", ("key", "value"))]:
                for end in ("weight", "bias"):
                    names = [f"{layer}.{packed}.{part}.{end}" for part in parts]
                    if names[0] in self.p:
                        self.p[f"{layer}.{packed}.{end}"] = torch.cat([self.p[name] for name in names])

    def linear(self, name, x):
        return F.linear(x, self.p[f"{name}.weight"], self.p[f"{name}.bias"])

    def norm(self, name, x):
        return F.layer_norm(x, (QUERY_WIDTH,), self.p[f"{name}.weight"], self.p[f"{name}.bias"], BERT_EPS)

    def attend(self, layer, x, q, k, v):
        heads = (rows.view(self.cells, -1, QUERY_HEADS, QUERY_WIDTH // QUERY_HEADS).transpose(1, 2) for rows in (q, k, v))
        context = F.scaled_dot_product_attention(*heads).transpose(1, 2).reshape(self.cells, -1, QUERY_WIDTH)
        return self.norm(f"{layer}.output.LayerNorm", x + self.linear(f"{layer}.output.dense", context))

    @torch.inference_mode()
    def run(self):
        x = self.norm("Qformer.bert.embeddings.LayerNorm", self.p["query_tokens"].expand(self.cells, -1, -1))
        for index in range(LAYERS):
            layer = f"Qformer.bert.encoder.layer.{index}"
            x = self.attend(f"{layer}.attention", x, *self.linear(f"{layer}.attention.self", x).chunk(3, -1))
            if index % 2 == 0:
                cross = f"{layer}.crossattention"
                keys = self.linear(f"{cross}.self", self.features).chunk(2, -1)
                x = self.attend(cross, x, self.linear(f"{cross}.self.query", x), *keys)
            wide = F.gelu(self.linear(f"{layer}.intermediate_query.dense", x))
            x = self.norm(f"{layer}.output_query.LayerNorm", x + self.linear(f"{layer}.output_query.dense", wide))
        self.queries = x

    def check(self):
        self.run()
        return digest(self.queries)


class Train:
    """Masked values: forward, backward, clipping, AdamW."""

    def __init__(self, _dtype, sizes):
        self.ids, self.values, self.targets, self.mask = make_batch(*dims(sizes), hides=True)
        self.parameters = {name: value.requires_grad_() for name, value in make_parameters(parameter_shapes(decoder=True)).items()}
        matrices = [value for value in self.parameters.values() if value.dim() > 1]
        vectors = [value for value in self.parameters.values() if value.dim() == 1]
        groups = [{"params": matrices, "weight_decay": WEIGHT_DECAY}, {"params": vectors, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=LEARNING_RATE, betas=(0.9, 0.999), eps=1e-8, fused=True)

    def decode(self, x):
        p = self.parameters
        for index in (0, 2):
            x = F.leaky_relu(F.linear(x, p[f"decoder.fc.{index}.weight"], p[f"decoder.fc.{index}.bias"]), 0.01)
        return F.linear(x, p["decoder.fc.4.weight"], p["decoder.fc.4.bias"]).squeeze(-1)

    def run(self):
        prediction = self.decode(encode(self.parameters, self.ids, self.values))
        loss = ((prediction - self.targets) * self.mask).square().sum() / self.mask.sum()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.parameters.values(), MAX_GRAD_NORM, foreach=True)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.last = [loss.item(), norm.item()]

    def check(self):
        """Loss and length of the gradient in each of two steps, the second and the third."""
        self.run()
        first = self.last
        self.run()
        return first + self.last


class Contrastive:
    """The loss of cells and texts in both directions, the largest of a cell's queries for a score, and all gradients."""

    def __init__(self, dtype, sizes):
        self.items, self.queries, width = (int(size) for size in sizes.split("x"))
        self.cells = F.normalize(uniform(1, (self.items * self.queries, width), 1.0), dim=-1).to(dtype).requires_grad_()
        self.texts = F.normalize(uniform(2, (self.items, width), 1.0), dim=-1).to(dtype).requires_grad_()
        self.targets = torch.arange(self.items)

    def run(self):
        self.cells.grad = self.texts.grad = None
        scores = self.cells @ self.texts.T
        if self.queries > 1:
            scores = scores.view(self.items, self.queries, self.items).max(dim=1).values
        logits = scores / TEMPERATURE
        self.loss = (F.cross_entropy(logits, self.targets) + F.cross_entropy(logits.T, self.targets)) / 2
        (self.items * self.loss).backward()

    def check(self):
        self.run()
        return [self.loss.item()] + digest(self.cells.grad) + digest(self.texts.grad)


def time_runs(workload, repeats):
    """Seconds of the fastest of `repeats` runs."""
    seconds = []
    count = in_a_row() if isinstance(workload, (Gemm, Attention)) else 1
    for _ in range(repeats):
        finish()
        start = time.perf_counter()
        for _ in range(count):
            workload.run()
        finish()
        seconds.append((time.perf_counter() - start) / count)
    return min(seconds)


def resident(field):
    """`VmRSS:` or `VmHWM:` of this process in bytes."""
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(field))


def run_first(workload):
    """Runs it, and says by how many bytes the process grew at most meanwhile; none where that is not known."""
    try:
        pathlib.Path("/proc/self/clear_refs").write_text("5")
        before = resident("VmRSS:")
    except OSError:
        before = None
    workload.run()
    return None if before is None else resident("VmHWM:") - before


CLASSES = {"gemm": Gemm, "attend": Attend, "attention": Attention, "encoder": Encoder, "qformer": QFormer, "train": Train, "contrastive": Contrastive}


def compare(ours, name, options, peaks):
    """The workload's row of the table."""
    kind, element, sizes = name.split("_", 2)
    answer = ours.ask(name)
    if "error" in answer:
        return {"workload": name, "error": answer["error"]}
    theirs = CLASSES[kind](DTYPES[element], sizes)
    memory = run_first(theirs)
    checks = theirs.check()
    row = {"workload": name, "checks": {"ours": answer["checks"], "pytorch": checks}}
    row["memory"] = {"ours": answer["memory"], "pytorch": memory}
    if not agree(answer["checks"], checks, element):
        return row | {"error": f"different results: ours {answer['checks']}, PyTorch {checks}"}
    rounds = []
    for index in range(options.rounds):
        if options.device == "cpu":
            peaks.append(1e9 / ours.ask("peak_f32")["seconds"]["minimum"])
        if index % 2 == 0:
            answer = ours.ask(name)
            pytorch = time_runs(theirs, answer["repeats"])
        else:
            pytorch = time_runs(theirs, answer["repeats"])
            answer = ours.ask(name)
        rounds.append({"ours": answer["seconds"]["minimum"], "pytorch": pytorch})
        print(f"  {name} {index + 1}/{options.rounds}: {rounds[-1]['ours']:.4f} s, {pytorch:.4f} s", file=sys.stderr)
    ratios = [entry["pytorch"] / entry["ours"] for entry in rounds]
    best = {side: min(entry[side] for entry in rounds) for side in ("ours", "pytorch")}
    rates = {side: answer["flops"] / seconds for side, seconds in best.items()}
    return row | {
        "seconds": best,
        "ratio": statistics.median(ratios),
        "ratios": ratios,
        "flops": answer["flops"],
        "flops_per_second": rates,
        "rounds": rounds,
    }


def print_table(rows, peak):
    """One line a workload, as Markdown."""
    print("\n| workload | ours s | PyTorch s | ratio | lowest .. highest | ours GFLOP/s | PyTorch GFLOP/s | ours share | PyTorch share | ours MB | PyTorch MB |")
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    for row in rows:
        if "error" in row:
            print(f"| {row['workload']} | {row['error']} | | | | | | | | | |")
            continue
        seconds, rates = row["seconds"], row["flops_per_second"]
        print(
            f"| {row['workload']} | {seconds['ours']:.4f} | {seconds['pytorch']:.4f} | {row['ratio']:.2f} "
            f"| {min(row['ratios']):.2f} .. {max(row['ratios']):.2f} | {rates['ours'] / 1e9:.1f} | {rates['pytorch'] / 1e9:.1f} "
            f"| {rates['ours'] / peak:.2f} | {rates['pytorch'] / peak:.2f} "
            + " ".join(f"| {'unknown' if grown is None else round(grown / 1e6)}" for grown in row["memory"].values())
            + " |"
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options, names = asked_for(parser, STANDARD, parts=3)
    load = [os.getloadavg()]
    ours = Ours(options)
    peaks, rows = [], []
    for name in names:
        rows.append(compare(ours, name, options, peaks))
    ours.close()
    load.append(os.getloadavg())

    peak = max(peaks, default=float("nan"))
    setting = {"processor": processor(), "cpus": os.cpu_count(), "threads": options.threads, "torch": torch.__version__}
    print_table(rows, peak)
    print(f"\n{setting['processor']}, {setting['cpus']} CPUs, {options.threads} threads, torch {torch.__version__}")
    if peaks:
        print(f"f32 FMA peak {peak / 1e9:.1f} GFLOP/s (lowest seen {min(peaks, default=peak) / 1e9:.1f})")
    print(f"load average (1 min) before {load[0][0]:.2f}, after {load[1][0]:.2f}: above {options.threads} others were computing too")
    if options.json:
        report = {"setting": setting, "fma_peak": peak, "fma_peaks": peaks, "load": load, "rows": rows}
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    return 1 if any("error" in row for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
