"""What the comparison scripts share: the numbers both sides start from, the bench that runs ours, and the options."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import torch

ROOT = pathlib.Path(__file__).resolve().parent.parent

# Of a result's largest number: rounding accumulates over twelve layers, differently in different kernels.
TOLERANCE = {"f32": 1e-3, "bf16": 5e-2}


def mixed(seed, length):
    """32 mixed bits of each index: `mixed` of benches/workload/mod.rs."""
    word = np.arange(length, dtype=np.uint32) * np.uint32(0x9E3779B1)
    word += np.uint32(seed * 0x85EBCA6B % 2**32)
    word ^= word >> np.uint32(15)
    word *= np.uint32(0x2C1B3C6D)
    word ^= word >> np.uint32(12)
    word *= np.uint32(0x297A2D39)
    return word ^ (word >> np.uint32(15))


def uniform(seed, shape, bound):
    """Numbers in [-bound, bound): `uniform` of benches/workload/mod.rs."""
    bits = (mixed(seed, int(np.prod(shape))) >> np.uint32(8)).astype(np.float32)
    return placed((np.float32(bound) * (bits / np.float32(2**23) - np.float32(1))).reshape(shape))


def placed(values):
    """A tensor of an array where PyTorch computes: see `asked_for`."""
    return torch.from_numpy(values).to(torch.get_default_device())


def digest(values):
    """First and last value, and the root of the mean square."""
    values = values.detach().flatten().double()
    return [values[0].item(), values[-1].item(), values.square().mean().sqrt().item()]


def make_parameters(shapes):
    """Their values: `fill` of benches/workload/mod.rs."""
    parameters = {}
    for name, shape in shapes.items():
        seed = 0x811C9DC5
        for byte in name.encode():
            seed = (seed ^ byte) * 0x01000193 % 2**32
        is_matrix = len(shape) > 1
        bound = np.float32(1) / np.sqrt(np.float32(shape[-1])) if is_matrix else 0.02
        values = uniform(seed, shape, bound)
        if not is_matrix and "norm" in name.lower() and name.endswith("weight"):
            values += 1.0
        parameters[name] = values
    return parameters


class Ours:
    """The peers bench, which answers a workload's name with a line of JSON."""

    def __init__(self, options):
        arguments = ["--stdin", "--device", options.device, "--threads", str(options.threads), "--repeats", str(options.repeats)]
        arguments += ["--allow-tf32"] * options.allow_tf32
        bench = options.bench or self.build()
        self.process = subprocess.Popen([bench, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)

    @staticmethod
    def build():
        command = ["cargo", "bench", "-p", "scmmgpt-benches", "--bench", "peers", "--no-run"]
        build = subprocess.run(
            command + ["--message-format=json-render-diagnostics"], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True
        )
        messages = (json.loads(line) for line in build.stdout.splitlines() if line.startswith("{"))
        found = [m["executable"] for m in messages if m.get("executable") and m["target"]["name"] == "peers"]
        if not found:
            sys.exit("cargo built no peers bench")
        return found[0]

    def ask(self, name):
        print(name, file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"{name}: the peers bench has ended")
        return json.loads(line)

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def finish():
    """Waits until the GPU, where one is computed on, has done what was asked of it."""
    if torch.get_default_device().type == "cuda":
        torch.cuda.synchronize()


def in_a_row():
    """How often a short workload runs in a row: `in_a_row` of benches/workload/mod.rs."""
    return 20 if torch.get_default_device().type == "cuda" else 1


def agree(ours, theirs, element):
    """Whether two lists of numbers are the same up to rounding, at the scale of the largest."""
    scale = max(abs(value) for value in theirs)
    return len(ours) == len(theirs) and all(abs(a - b) <= TOLERANCE[element] * scale for a, b in zip(ours, theirs))


def processor():
    """Name of the GPU that is computed on, or of the CPU, and which bf16 instructions that has."""
    if torch.get_default_device().type == "cuda":
        return torch.cuda.get_device_name()
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return "unknown processor"
    fields = dict(line.split(":", 1) for line in reversed(lines) if ":" in line)
    fields = {key.strip(): value.strip() for key, value in fields.items()}
    flags = [flag for flag in ("avx512f", "avx512_bf16", "amx_bf16") if flag in fields.get("flags", "").split()]
    return f"{fields.get('model name', 'unknown processor')} ({', '.join(flags) or 'no AVX-512'})"


def asked_for(parser, standard, parts):
    """The options, and the workloads that they name; a name outside `standard` has at least so many parts."""
    parser.add_argument("--only", default="", help="beginnings of workload names, separated by commas")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="threads of every side (default: all)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds a workload (default: 5)")
    parser.add_argument("--repeats", type=int, default=3, help="runs a round, more for short workloads (default: 3)")
    parser.add_argument("--json", type=pathlib.Path, help="write everything measured to this file")
    parser.add_argument("--device", default="cpu", help="where both sides compute: cpu or cuda (default: cpu)")
    parser.add_argument("--allow-tf32", action="store_true", help="on a GPU: products of f32 may round their operands to tf32")
    parser.add_argument("--bench", type=pathlib.Path, help="the peers bench, where it is built already")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.set_default_device(options.device)
    torch.backends.cuda.matmul.allow_tf32 = options.allow_tf32

    names = []
    for prefix in options.only.split(","):
        listed = [name for name in standard if name.startswith(prefix)]
        # A whole name outside the list is a workload of another size.
        names += listed or [prefix] * (prefix.count("_") >= parts - 1)
    if not names:
        parser.error(f"--only {options.only}: no such workload")
    return options, names
