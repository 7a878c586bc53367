"""llama.cpp through its C interface, for compare_language.py: a library that exports `llama.h`, and the model file that it reads."""

import ctypes
import struct

import numpy as np

ALIGNMENT = 32
F32, BF16 = 0, 30


class Parameters(ctypes.Structure):
    """Parameters of a model or a context as their functions give and take them. Only the first four numbers of a context's are named: the
    rest of either differs from version to version, and is left as it comes; it is shorter than this."""

    _fields_ = [(name, ctypes.c_uint32) for name in ("n_ctx", "n_batch", "n_ubatch", "n_seq_max")] + [("rest", ctypes.c_uint64 * 126)]


class Batch(ctypes.Structure):
    """`llama_batch`."""

    _fields_ = [
        ("n_tokens", ctypes.c_int32),
        ("token", ctypes.POINTER(ctypes.c_int32)),
        ("embd", ctypes.POINTER(ctypes.c_float)),
        ("pos", ctypes.POINTER(ctypes.c_int32)),
        ("n_seq_id", ctypes.POINTER(ctypes.c_int32)),
        ("seq_id", ctypes.POINTER(ctypes.POINTER(ctypes.c_int32))),
        ("logits", ctypes.POINTER(ctypes.c_int8)),
    ]


LOG = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)


class Llama:
    """A model with room for `batch` sequences of `capacity` tokens."""

    def __init__(self, library, model, threads, batch, capacity):
        self.c = c = ctypes.CDLL(library)
        # Loading talks a lot.
        self.log = LOG(lambda level, text, data: None)
        c.llama_log_set(self.log, None)
        for name, result, arguments in [
            ("llama_model_default_params", Parameters, []),
            ("llama_context_default_params", Parameters, []),
            ("llama_model_load_from_file", ctypes.c_void_p, [ctypes.c_char_p, Parameters]),
            ("llama_init_from_model", ctypes.c_void_p, [ctypes.c_void_p, Parameters]),
            ("llama_set_n_threads", None, [ctypes.c_void_p, ctypes.c_int32, ctypes.c_int32]),
            ("llama_batch_init", Batch, [ctypes.c_int32] * 3),
            ("llama_batch_free", None, [Batch]),
            ("llama_decode", ctypes.c_int32, [ctypes.c_void_p, Batch]),
            ("llama_get_logits_ith", ctypes.POINTER(ctypes.c_float), [ctypes.c_void_p, ctypes.c_int32]),
            ("llama_get_memory", ctypes.c_void_p, [ctypes.c_void_p]),
            ("llama_memory_seq_rm", ctypes.c_bool, [ctypes.c_void_p] + [ctypes.c_int32] * 3),
            ("llama_free", None, [ctypes.c_void_p]),
            ("llama_model_free", None, [ctypes.c_void_p]),
        ]:
            function = getattr(c, name)
            function.restype, function.argtypes = result, arguments
        c.llama_backend_init()
        self.model = c.llama_model_load_from_file(str(model).encode(), c.llama_model_default_params())
        if not self.model:
            raise RuntimeError(f"{library} does not read {model}")
        parameters = c.llama_context_default_params()
        # A sequence's share of the cells is a multiple of 256.
        parameters.n_ctx = batch * (-(-capacity // 256) * 256)
        parameters.n_batch = parameters.n_ubatch = max(512, batch)
        parameters.n_seq_max = batch
        self.context = c.llama_init_from_model(self.model, parameters)
        if not self.context:
            raise RuntimeError(f"{library} gives no context")
        c.llama_set_n_threads(self.context, threads, threads)
        self.memory = c.llama_get_memory(self.context)
        self.batch = c.llama_batch_init(parameters.n_batch, 0, 1)

    @staticmethod
    def system(library):
        """What it was built for."""
        describe = ctypes.CDLL(library).llama_print_system_info
        describe.restype = ctypes.c_char_p
        return describe().decode().strip()

    def put(self, parts):
        """Fills the batch with tokens: each part is (sequence, first place, tokens), and the logits behind its last token are wanted."""
        at, self.last = 0, []
        for sequence, place, tokens in parts:
            for index, token in enumerate(tokens):
                self.batch.token[at], self.batch.pos[at] = int(token), place + index
                self.batch.n_seq_id[at], self.batch.seq_id[at][0] = 1, sequence
                self.batch.logits[at] = index + 1 == len(tokens)
                at += 1
            self.last.append(at - 1)
        self.batch.n_tokens = at

    def run(self):
        """Computes the batch."""
        if self.c.llama_decode(self.context, self.batch) != 0:
            raise RuntimeError("llama_decode failed")

    def logits(self, vocabulary):
        """`[parts, vocabulary]` of the last batch."""
        rows = [self.c.llama_get_logits_ith(self.context, index) for index in self.last]
        return np.stack([np.ctypeslib.as_array(row, (vocabulary,)) for row in rows])

    def forget(self, sequence, place):
        """Removes the tokens of a sequence from a place on."""
        self.c.llama_memory_seq_rm(self.memory, sequence, place, -1)

    def close(self):
        self.c.llama_batch_free(self.batch)
        self.c.llama_free(self.context)
        self.c.llama_model_free(self.model)


def bf16(values):
    """f32 to bf16 as u16, to the nearest, ties to even."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def interleaved(values, heads):
    """Rows of a query or key projection in llama.cpp's order: the two halves of a head, which turn together, pair by pair."""
    rows, width = values.shape
    return values.reshape(heads, 2, rows // heads // 2, width).swapaxes(1, 2).reshape(rows, width)


NAMES = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def gguf_name(name):
    """Hugging Face's name of a weight as a GGUF file has it."""
    fixed = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}
    if name in fixed:
        return fixed[name]
    layer, inner = name.removeprefix("model.layers.").split(".", 1)
    return f"blk.{layer}.{NAMES[inner.removesuffix('.weight')]}.weight"


def write_gguf(path, config, weights):
    """A Llama model without a tokenizer: matrices in bf16, vectors in f32. `weights` under Hugging Face's names, f32."""

    def text(value):
        return struct.pack("<Q", len(value)) + value.encode()

    def entry(key, value):
        kind, form = {int: (4, "<I"), float: (6, "<f"), str: (8, None)}[type(value)]
        return text(key) + struct.pack("<I", kind) + (text(value) if form is None else struct.pack(form, value))

    head_dim = config["hidden_size"] // config["num_attention_heads"]
    entries = [
        ("general.architecture", "llama"),
        ("general.file_type", 32),
        ("llama.context_length", config["max_position_embeddings"]),
        ("llama.embedding_length", config["hidden_size"]),
        ("llama.block_count", config["num_hidden_layers"]),
        ("llama.feed_forward_length", config["intermediate_size"]),
        ("llama.attention.head_count", config["num_attention_heads"]),
        ("llama.attention.head_count_kv", config["num_key_value_heads"]),
        ("llama.attention.layer_norm_rms_epsilon", config["rms_norm_eps"]),
        ("llama.rope.freq_base", config["rope_theta"]),
        ("llama.rope.dimension_count", head_dim),
        ("llama.vocab_size", config["vocab_size"]),
        ("tokenizer.ggml.model", "no_vocab"),
    ]
    descriptions, data, offset = [], [], 0
    for name, values in weights.items():
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            values = interleaved(values, values.shape[0] // head_dim)
        kind = F32 if values.ndim == 1 else BF16
        content = (values.astype(np.float32) if kind == F32 else bf16(values)).tobytes()
        shape = values.shape[::-1]
        descriptions.append(text(gguf_name(name)) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset))
        data.append(content + bytes(-len(content) % ALIGNMENT))
        offset += len(data[-1])
    header = b"GGUF" + struct.pack("<IQQ", 3, len(descriptions), len(entries))
    header += b"".join(entry(*pair) for pair in entries) + b"".join(descriptions)
    with open(path, "wb") as file:
        file.write(header + bytes(-len(header) % ALIGNMENT))
        for content in data:
            file.write(content)
