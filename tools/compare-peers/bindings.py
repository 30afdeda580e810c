"""llama.cpp and ik_llama.cpp behind one small face: `decode`, `forget`, `save`, `restore`.

Only this file knows the two Python packages; both are reached through their low-level ctypes bindings, so
what is timed is `llama_decode`. It runs in the interpreter that has the package, never in compare.py's own.
"""

import ctypes
import os


class Refused(RuntimeError):
    """The library said no; the reason is on standard error."""


class LlamaCpp:
    """The package llama-cpp-python."""

    def __init__(self, model, settings):
        import llama_cpp

        self._start(llama_cpp, model, settings)

    def _start(self, lib, model, settings):
        self.lib, self.settings = lib, settings
        self.context = self.batch = None
        lib.llama_backend_init()
        self.model = self._load(model.encode())
        if not self.model:
            raise Refused(f"{model} was not loaded; see Caveats in tools/compare-peers/README.md")
        self.vocab_size = lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(self.model))

    @property
    def version(self):
        """Of the Python package."""
        return f"llama-cpp-python {self.lib.__version__}"

    def _load(self, path):
        return self.lib.llama_model_load_from_file(path, self.lib.llama_model_default_params())

    def _context_params(self, tokens, sequences):
        params = self.lib.llama_context_default_params()
        # Each sequence has its own stream of the cache, as in llama-batched-bench.
        params.n_ctx, params.n_seq_max = tokens * sequences, sequences
        params.n_batch, params.n_ubatch = self.settings["n_batch"], self.settings["n_ubatch"]
        params.n_threads = params.n_threads_batch = self.settings["threads"]
        params.flash_attn_type = int(self.settings["flash_attention"])
        return params

    def open(self, tokens, sequences):
        """A context with room for `tokens` in each of `sequences`."""
        self.close()
        tokens = -(-tokens // 256) * 256
        self.context = self.lib.llama_init_from_model(self.model, self._context_params(tokens, sequences))
        if not self.context:
            raise Refused(f"no context of {tokens} x {sequences} tokens")
        self.batch = self.lib.llama_batch_init(self.settings["n_batch"], 0, 1)

    def close(self):
        """Frees the context."""
        if self.context:
            self.lib.llama_batch_free(self.batch)
            self.lib.llama_free(self.context)
            self.context = None

    def decode(self, rows):
        """One `llama_decode` of `(token, position, sequence, wants_logits)` rows, at most n_batch."""
        batch = self.batch
        batch.n_tokens = len(rows)
        for i, (token, position, sequence, wants_logits) in enumerate(rows):
            batch.token[i], batch.pos[i], batch.logits[i] = token, position, wants_logits
            batch.n_seq_id[i], batch.seq_id[i][0] = 1, sequence
        status = self.lib.llama_decode(self.context, batch)
        if status != 0:
            raise Refused(f"llama_decode returned {status} for {len(rows)} tokens")
        self._synchronize()

    def _synchronize(self):
        self.lib.llama_synchronize(self.context)

    def forget(self, sequence, position):
        """Drops what a sequence has cached from `position` on."""
        self.lib.llama_memory_seq_rm(self.lib.llama_get_memory(self.context), sequence, position, -1)

    def save(self, path, sequence):
        """Writes a sequence's cache to a file."""
        self.lib.llama_state_seq_save_file(self.context, path.encode(), sequence, None, 0)

    def restore(self, path, sequence):
        """Reads it back; `False` if there is no such file or it does not fit."""
        if not os.path.exists(path):
            return False
        tokens, count = (ctypes.c_int32 * 1)(), ctypes.c_size_t()
        load = self.lib.llama_state_seq_load_file
        return load(self.context, path.encode(), sequence, tokens, 1, ctypes.byref(count)) != 0


class IkLlamaCpp(LlamaCpp):
    """The package ik-llama-cpp-python: an older face, with flags of its own."""

    def __init__(self, model, settings):
        import ik_llama_cpp._ctypes_api as bound

        # What the package does not bind itself; ctypes would cut pointers to 32 bits.
        sequence, position, context = ctypes.c_int32, ctypes.c_int32, ctypes.c_void_p
        for name, result, arguments in (
            ("llama_kv_cache_seq_rm", ctypes.c_bool, [context, sequence, position, position]),
            ("llama_state_seq_save_file", ctypes.c_size_t,
             [context, ctypes.c_char_p, sequence, ctypes.c_void_p, ctypes.c_size_t]),
            ("llama_state_seq_load_file", ctypes.c_size_t,
             [context, ctypes.c_char_p, sequence, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p]),
        ):
            function = getattr(bound._lib, name)
            function.restype, function.argtypes = result, arguments
            setattr(bound, name, function)
        self._start(bound, model, settings)

    @property
    def version(self):
        """Of the Python package."""
        from importlib.metadata import version

        return f"ik-llama-cpp-python {version('ik-llama-cpp-python')}"

    def _load(self, path):
        params = self.lib.llama_model_default_params()
        params.mla = self.settings["mla"]
        params.repack_tensors = self.settings["repack"]
        params.use_mmap = not self.settings["repack"]
        return self.lib.llama_model_load_from_file(path, params)

    def _context_params(self, tokens, sequences):
        params = self.lib.llama_context_default_params()
        params.n_ctx, params.n_seq_max = tokens * sequences, sequences
        params.n_batch, params.n_ubatch = self.settings["n_batch"], self.settings["n_ubatch"]
        params.n_threads = params.n_threads_batch = self.settings["threads"]
        # Its flash attention reads one mask value per block of keys to see where a sequence ends: sequences that
        # lie interleaved in the one cache lose tokens, or `GGML_ASSERT(S > 0)` ends the process.
        params.flash_attn = self.settings["flash_attention"] and sequences == 1
        params.mla_attn, params.fused_moe_up_gate = self.settings["mla"], True
        return params

    def _synchronize(self):
        pass  # llama_decode of this fork returns when a CPU is done.

    def forget(self, sequence, position):
        self.lib.llama_kv_cache_seq_rm(self.context, sequence, position, -1)


LIBRARIES = {"llama_cpp": LlamaCpp, "ik_llama_cpp": IkLlamaCpp}
