"""llama.cpp beside the others on a CPU: the same weights in a GGUF file, through its server's Python binding."""

from __future__ import annotations

import importlib
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from llama4_local.config.model import ModelConfig, TextConfig
    from llama4_local.weights.tree import Weights

_SPACE = "\u2581"  # a space in SentencePiece's vocabularies
_NORMAL, _UNKNOWN, _CONTROL = 1, 2, 3  # kinds of tokens in GGUF


def write_gguf(path: Path, config: ModelConfig, weights: Weights) -> None:
    """Write a network whose layers are all mixtures of experts; llama.cpp takes chunks of 8,192 and NoPE every fourth.

    Args:
        path: The file.
        config: The network's shape; 16 experts, by which llama.cpp recognizes Scout and normalizes queries and keys.
        weights: Its tensors, experts as [E, in, out].
    """
    gguf: Any = importlib.import_module("gguf")
    text = config.text
    writer = gguf.GGUFWriter(str(path), "llama4")
    writer.add_block_count(text.layers)
    writer.add_context_length(text.max_positions)
    writer.add_embedding_length(text.hidden_size)
    writer.add_feed_forward_length(text.dense_size)
    writer.add_expert_feed_forward_length(text.expert_size)
    writer.add_head_count(text.heads)
    writer.add_head_count_kv(text.kv_heads)
    writer.add_key_length(text.head_dim)
    writer.add_value_length(text.head_dim)
    writer.add_layer_norm_rms_eps(text.norm_eps)
    writer.add_rope_freq_base(text.rope_theta)
    writer.add_rope_dimension_count(text.head_dim)
    writer.add_expert_count(text.experts)
    writer.add_expert_used_count(1)
    writer.add_interleave_moe_layer_step(1)
    writer.add_vocab_size(text.vocab_size)
    writer.add_file_type(0)
    _add_vocabulary(writer, text)
    for name, tensor in _named(text, weights).items():
        writer.add_tensor(name, tensor.float().contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_vocabulary(writer: Any, text: TextConfig) -> None:
    """Add made-up tokens named for their ids, which the server needs to write text."""
    special = ["<unk>", "<s>", "</s>"]
    rest = range(len(special), text.vocab_size)
    writer.add_tokenizer_model("llama")
    writer.add_token_list([*special, *(f"{_SPACE}t{number}" for number in rest)])
    writer.add_token_scores([0.0] * text.vocab_size)
    writer.add_token_types([_UNKNOWN, _CONTROL, _CONTROL, *[_NORMAL] * len(rest)])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)


def _named(text: TextConfig, weights: Weights) -> dict[str, torch.Tensor]:
    named = {"token_embd.weight": weights.embedding, "output_norm.weight": weights.norm, "output.weight": weights.head}
    for number, layer in enumerate(weights.layers):
        moe = layer.moe
        if moe is None:
            raise ValueError("every layer must be a mixture of experts")
        query, key, value = layer.attention.qkv.split(list(text.qkv_rows))
        gate, up = moe.gate_up.transpose(1, 2).split(text.expert_size, dim=1)
        shared_gate, shared_up = moe.shared.gate_up.split(text.expert_size)
        own = {
            "attn_norm": layer.input_norm,
            "attn_q": query,
            "attn_k": key,
            "attn_v": value,
            "attn_output": layer.attention.output,
            "ffn_norm": layer.post_norm,
            "ffn_gate_inp": moe.router,
            "ffn_gate_exps": gate,
            "ffn_up_exps": up,
            "ffn_down_exps": moe.down.transpose(1, 2),
            "ffn_gate_shexp": shared_gate,
            "ffn_up_shexp": shared_up,
            "ffn_down_shexp": moe.shared.down,
        }
        named |= {f"blk.{number}.{name}.weight": tensor for name, tensor in own.items()}
    return named


class LlamaCpp:
    """The server of llama.cpp, in this process, in fp32.

    Args:
        folder: Holds `model.gguf`.
        streams: Most answers at once.
        context: Most tokens of one.
    """

    def __init__(self, folder: Path, streams: int, context: int) -> None:
        library: Any = importlib.import_module("xllamacpp")
        params = library.CommonParams()
        params.model.path = str(folder / "model.gguf")
        params.n_parallel = streams
        params.n_ctx = streams * context
        params.n_batch = params.n_ubatch = 512
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = torch.get_num_threads()
        params.cache_type_k = params.cache_type_v = library.ggml_type.GGML_TYPE_F32
        params.cache_prompt = False
        params.cache_ram_mib = 0
        params.verbosity = -1
        self._server = library.Server(params)

    def tokens(self, prompt: list[int], count: int) -> list[int]:
        """Return a greedy answer."""
        return [token for _, token in self._ask(prompt, count)]

    def answers(self, prompts: list[list[int]], count: int) -> tuple[float, float, float]:
        """Return when all began, when the last of the first tokens came, and when all were done."""
        answers: list[list[tuple[float, int]]] = [[] for _ in prompts]

        def ask(place: int) -> None:
            answers[place] = self._ask(prompts[place], count)

        threads = [threading.Thread(target=ask, args=(place,)) for place in range(len(prompts))]
        begun = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if any(len(own) != count for own in answers):
            raise RuntimeError("not every answer came to its end")
        return begun, max(own[0][0] for own in answers), max(own[-1][0] for own in answers)

    def _ask(self, prompt: list[int], count: int) -> list[tuple[float, int]]:
        """Return the moment and the id of each token of a greedy answer."""
        answer: list[tuple[float, int]] = []

        def take(chunk: Any) -> None:
            now = time.perf_counter()
            text: str = chunk["choices"][0]["text"]
            answer.extend((now, int(name.removeprefix("t"))) for name in text.split())

        self._server.handle_completions(
            {"prompt": prompt, "max_tokens": count, "temperature": 0, "ignore_eos": True, "stream": True}, take
        )
        return answer
