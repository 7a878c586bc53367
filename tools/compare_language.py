#!/usr/bin/env python3
"""Times a language model of SmolLM2-135M's sizes in scmmgpt-engine, llama.cpp and PyTorch, in turn, on the same number of CPU threads.

    tools/setup-python.sh --torch && .venv/bin/pip install transformers peft
    .venv/bin/python tools/compare_language.py [--llama LIBRARY] [--only prefill,decode,lora] [--threads 2] [--rounds 5] [--json FILE]

| workload | one run |
|---|---|
| prefill_bf16_b1_s512 | a prompt of 512 tokens, to the logits behind it |
| decode_bf16_b1_s512, decode_bf16_b8_s512 | one more token for each of 1 and 8 sequences behind 512 cached ones, to the logits |
| lora_f32_b4_s128 | a training step of adapters (rank 8 on queries and values, dropout 0.1): loss, gradients, clipping, AdamW |

LIBRARY is any shared library that exports llama.cpp's `llama.h` (libllama.so, or the extension module of a Python binding). It computes
on a GGUF file in bf16 that this script writes, keeps its cache in f16, and is called without sampling; below the table stands what it
was built for. PyTorch runs transformers' LlamaForCausalLM in bf16 with its own cache, and peft in f32. Sampling is in nobody's time.

All weights and prompts are integer hashes (benches/workload/mod.rs): the same numbers for all, no files. Before the timing every side
computes the workload once, and what comes out is compared: every 768th logit behind each prompt, and behind each token that is written;
loss and gradient norm of two training steps without dropout. A peer whose results differ is not timed, and the exit status is 1.

A round is `--repeats` runs of each side, the order turning from round to round; a ratio is the peer's fastest run over our fastest in
one round, and the table shows the median over the rounds, so that a neighbour on the machine disturbs all alike. Above 1 we are faster.
The bandwidth is what as many threads read of 512 MiB of memory, measured behind each workload that decodes (the highest is taken); the
share is what decoding reaches of it: bytes of all weights and of the cache, read once a run, over the time of our fastest run.
"""

import argparse
import inspect
import json
import os
import pathlib
import statistics
import sys
import tempfile
import time

import numpy as np
import peft
import torch
import transformers
from peft import LoraConfig, get_peft_model
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

from llama_cpp import Llama, write_gguf
from peers import Ours, agree, asked_for, finish, make_parameters, mixed, placed, processor

STANDARD = ["prefill_bf16_b1_s512", "decode_bf16_b1_s512", "decode_bf16_b8_s512", "lora_f32_b4_s128"]

CONFIG = {
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "vocab_size": 49_152,
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-5,
    "rope_theta": 100_000.0,
}
CHECKED, RANK = 768, 8
# What transformers calls the argument, which changed in 5.x.
CACHE = "cache" if "cache" in inspect.signature(LlamaForCausalLM.forward).parameters else "past_key_values"
LEARNING_RATE, WEIGHT_DECAY, MAX_GRAD_NORM = 1e-4, 0.01, 1.0


def parameter_shapes(adapters):
    """Every parameter under Hugging Face's name, and PEFT's of the adapters."""
    width, wide = CONFIG["hidden_size"], CONFIG["intermediate_size"]
    keys = width // CONFIG["num_attention_heads"] * CONFIG["num_key_value_heads"]
    shapes = {"model.embed_tokens.weight": (CONFIG["vocab_size"], width), "model.norm.weight": (width,)}
    for index in range(CONFIG["num_hidden_layers"]):
        layer = f"model.layers.{index}"
        for name, out, fan_in in [
            ("self_attn.q_proj", width, width),
            ("self_attn.k_proj", keys, width),
            ("self_attn.v_proj", keys, width),
            ("self_attn.o_proj", width, width),
            ("mlp.gate_proj", wide, width),
            ("mlp.up_proj", wide, width),
            ("mlp.down_proj", width, wide),
        ]:
            shapes[f"{layer}.{name}.weight"] = (out, fan_in)
            if adapters and name in ("self_attn.q_proj", "self_attn.v_proj"):
                shapes[f"{layer}.{name}.lora_A.weight"] = (RANK, fan_in)
                shapes[f"{layer}.{name}.lora_B.weight"] = (out, RANK)
        for norm in ("input_layernorm", "post_attention_layernorm"):
            shapes[f"{layer}.{norm}.weight"] = (width,)
    return shapes


def tokens(seed, count):
    """Words below the vocabulary's size: `tokens` of benches/workload/language.rs."""
    return (mixed(seed, count) % np.uint32(CONFIG["vocab_size"])).astype(np.int64)


def llama_model(weights):
    """transformers' model with these weights, tied."""
    rope = {"rope_type": "default", "rope_theta": CONFIG["rope_theta"]}
    config = LlamaConfig(**{**CONFIG, "rope_parameters": rope, "tie_word_embeddings": True, "attention_bias": False, "mlp_bias": False})
    model = LlamaForCausalLM(config)
    missing, unexpected = model.load_state_dict(weights, strict=False)
    if unexpected or set(missing) - {"lm_head.weight"}:
        sys.exit(f"transformers names weights otherwise: {missing} {unexpected}")
    model.tie_weights()
    return model.to(torch.get_default_device())


class TransformersGeneration:
    """Prompts read, or one token written behind each, by transformers in bf16."""

    def __init__(self, weights, batch, length, writes):
        self.model = llama_model(weights).to(torch.bfloat16).eval()
        self.prompts = placed(np.stack([tokens(item, length) for item in range(batch)]))
        self.writes = writes
        if writes:
            self.kept = DynamicCache()
            with torch.inference_mode():
                self.model(self.prompts, **{CACHE: self.kept}, use_cache=True, logits_to_keep=1)

    @torch.inference_mode()
    def run(self):
        if not self.writes:
            return self.timed(lambda: self.model(self.prompts, **{CACHE: DynamicCache()}, use_cache=True, logits_to_keep=1))
        seconds = self.timed(lambda: self.model(self.prompts[:, :1], **{CACHE: self.kept}, use_cache=True))
        self.kept.crop(-1)
        return seconds

    def timed(self, body):
        finish()
        start = time.perf_counter()
        self.last = body().logits[:, -1]
        finish()
        return time.perf_counter() - start

    def check(self):
        self.run()
        return self.last.float().flatten()[::CHECKED].tolist()

    def close(self):
        pass


class LlamaGeneration:
    """The same by llama.cpp."""

    def __init__(self, library, model, batch, length, writes, threads):
        self.llama = Llama(library, model, threads, batch, length + 1)
        self.prompts = [tokens(item, length) for item in range(batch)]
        self.length, self.writes = length, writes
        if writes:
            for item, prompt in enumerate(self.prompts):
                self.llama.put([(item, 0, prompt)])
                self.llama.run()
            self.llama.put([(item, length, prompt[:1]) for item, prompt in enumerate(self.prompts)])
        else:
            self.llama.put([(item, 0, prompt) for item, prompt in enumerate(self.prompts)])

    def run(self):
        for item in range(len(self.prompts)):
            self.llama.forget(item, self.length if self.writes else 0)
        start = time.perf_counter()
        self.llama.run()
        return time.perf_counter() - start

    def check(self):
        self.run()
        return self.llama.logits(CONFIG["vocab_size"]).flatten()[::CHECKED].tolist()

    def close(self):
        self.llama.close()


class PeftStep:
    """A training step of adapters by transformers and peft in f32."""

    def __init__(self, weights, batch, length):
        config = LoraConfig(r=RANK, lora_alpha=32, lora_dropout=0.1, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
        base = {name: value for name, value in weights.items() if "lora" not in name}
        self.model = get_peft_model(llama_model(base), config)
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                if parameter.requires_grad:
                    parameter.copy_(weights[name.removeprefix("base_model.model.").replace(".default", "")])
        self.trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(self.trained, lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY, fused=True)
        self.ids = placed(tokens(1, batch * length).reshape(batch, length))
        # Without dropout, until the results have been compared.
        self.model.eval()

    def run(self):
        start = time.perf_counter()
        loss = self.model(input_ids=self.ids, labels=self.ids, use_cache=False).loss
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.trained, MAX_GRAD_NORM)
        self.optimizer.step()
        self.optimizer.zero_grad()
        finish()
        seconds = time.perf_counter() - start
        self.last = [loss.item(), norm.item()]
        return seconds

    def check(self):
        self.run()
        checks = []
        for _ in range(2):
            self.run()
            checks += self.last
        self.model.train()
        return checks

    def close(self):
        pass


def fastest(side, repeats):
    """Seconds of the fastest of `repeats` runs."""
    return min(side.run() for _ in range(repeats))


def compare(ours, name, options, bandwidths):
    """The workload's row of the table."""
    kind, element, batch, length = name.split("_")
    batch, length = int(batch[1:]), int(length[1:])
    answer = ours.ask(name)
    if "error" in answer:
        return {"workload": name, "error": answer["error"]}
    weights = make_parameters(parameter_shapes(adapters=kind == "lora"))
    with tempfile.TemporaryDirectory() as folder:
        peers = {}
        if kind == "lora":
            peers["peft"] = PeftStep(weights, batch, length)
        else:
            if options.llama:
                model = pathlib.Path(folder) / "model.gguf"
                write_gguf(model, CONFIG, {name: value.cpu().numpy() for name, value in weights.items()})
                peers["llama.cpp"] = LlamaGeneration(options.llama, model, batch, length, kind == "decode", options.threads)
            peers["transformers"] = TransformersGeneration(weights, batch, length, kind == "decode")
        row = {"workload": name, "tokens": batch * (1 if kind == "decode" else length), "bytes": answer["bytes"]}
        row["checks"] = {"ours": answer["checks"]}
        for peer, side in peers.items():
            row["checks"][peer] = checks = side.check()
            difference = max(abs(a - b) for a, b in zip(answer["checks"], checks)) / max(map(abs, checks))
            row.setdefault("differences", {})[peer] = difference
            if not agree(answer["checks"], checks, element):
                return row | {"error": f"{peer} computes something else: {difference:.3g} of the largest number"}
        rounds = []
        for index in range(options.rounds):
            turn = list(peers) + ["ours"]
            turn = turn[index % len(turn) :] + turn[: index % len(turn)]
            seconds = {}
            for side in turn:
                if side == "ours":
                    seconds["ours"] = ours.ask(name)["seconds"]["minimum"]
                else:
                    seconds[side] = fastest(peers[side], max(answer["repeats"], options.repeats))
            rounds.append(seconds)
            times = ", ".join(f"{side} {value:.4f} s" for side, value in seconds.items())
            print(f"  {name} {index + 1}/{options.rounds}: {times}", file=sys.stderr)
        for side in peers.values():
            side.close()
    # Last: the bench forgets a workload when it is asked for another.
    if kind == "decode":
        bandwidths += [read["bytes"] / read["seconds"]["minimum"] for read in (ours.ask("peak_read") for _ in range(options.rounds))]
    ratios = {peer: [entry[peer] / entry["ours"] for entry in rounds] for peer in peers}
    best = {side: min(entry[side] for entry in rounds) for side in rounds[0]}
    medians = {peer: statistics.median(values) for peer, values in ratios.items()}
    return row | {"seconds": best, "ratios": ratios, "ratio": medians, "rounds": rounds}


def print_table(rows, bandwidth):
    """One line a workload and peer, as Markdown."""
    print("\n| workload | peer | ratio | lowest .. highest | ours tokens/s | peer tokens/s | ours ms | peer ms | share of bandwidth | largest difference |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for row in rows:
        if "error" in row:
            print(f"| {row['workload']} | {row['error']} | | | | | | | | |")
            continue
        mine = row["seconds"]["ours"]
        share = f"{row['bytes'] / mine / bandwidth:.2f}" if row["bytes"] else ""
        for peer, ratios in row["ratios"].items():
            theirs = row["seconds"][peer]
            print(
                f"| {row['workload']} | {peer} | {row['ratio'][peer]:.2f} | {min(ratios):.2f} .. {max(ratios):.2f} "
                f"| {row['tokens'] / mine:.0f} | {row['tokens'] / theirs:.0f} | {1e3 * mine:.2f} | {1e3 * theirs:.2f} "
                f"| {share} | {row['differences'][peer]:.1e} |"
            )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llama", help="a shared library with llama.cpp's C interface; without it PyTorch is the only peer")
    options, names = asked_for(parser, STANDARD, parts=4)
    load = [os.getloadavg()]
    ours = Ours(options)
    bandwidths, rows = [], []
    for name in names:
        rows.append(compare(ours, name, options, bandwidths))
    ours.close()
    load.append(os.getloadavg())

    bandwidth = max(bandwidths, default=float("nan"))
    llama = Llama.system(options.llama) if options.llama else None
    versions = {"torch": torch.__version__, "transformers": transformers.__version__, "peft": peft.__version__}
    print_table(rows, bandwidth)
    print(f"\n{processor()}, {os.cpu_count()} CPUs, {options.threads} threads, " + ", ".join(f"{k} {v}" for k, v in versions.items()))
    if llama:
        print(f"llama.cpp: {llama}")
    if bandwidths:
        print(f"memory is read at {bandwidth / 1e9:.1f} GB/s (lowest seen {min(bandwidths) / 1e9:.1f})")
    print(f"load average (1 min) before {load[0][0]:.2f}, after {load[1][0]:.2f}: above {options.threads} others were computing too")
    if options.json:
        setting = versions | {"processor": processor(), "threads": options.threads, "llama": llama}
        report = {"setting": setting, "bandwidths": bandwidths, "load": load, "rows": rows}
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    return 1 if any("error" in row for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
