"""Decode on a GPU with one CUDA graph launch per token.

Launching the kernels of a step one by one (1,500 for 24 layers) is estimated to take the host longer than the GPU takes
to run them. A graph launches them all at once, but every tensor of a step must stay at its place in memory. So the
cache is static, the mask has its full size from the start and opens one column per step, and tokens and
log-probabilities are written to fixed places. The host reads them every `LOOK_EVERY` steps.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from functools import cache

import torch
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer, StaticLayer

from model.logprobs import next_logits

LOOK_EVERY = 8  # the host looks for rows that have ended after this many tokens
SMALLEST = 4  # the number of rows is not reduced below this
ROOM_UNIT = 64  # the cache's length is a multiple of this, so that mask rows are aligned for attention kernels

Draw = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


def takes_graph(model) -> bool:
    """Return whether a model can be decoded under a graph: on a GPU, if every layer attends to all tokens by a mask.

    Models are excluded if they scale positions by the length so far, which the host would have to read. All models are
    excluded while torch must be deterministic, because writing into the cache may then wait for the host.
    """
    config = model.config.get_text_config()
    rope = getattr(config, "rope_parameters", None) or {}
    if getattr(config, "alibi", False) or config.model_type == "bloom":
        return False  # it computes positions from a two-dimensional mask
    if "dynamic" in str(rope.get("rope_type", "")) or torch.are_deterministic_algorithms_enabled():
        return False
    plain = all(type(layer) is DynamicLayer for layer in DynamicCache(config=model.config).layers)
    on_gpu = model.get_input_embeddings().weight.device.type == "cuda"
    return on_gpu and plain and model not in _failed and config._attn_implementation in ("sdpa", "eager")


class _Layer(StaticLayer):
    """A layer's keys and values at a fixed place; a new token goes to the column that all layers share."""

    def __init__(self, keys: torch.Tensor, values: torch.Tensor, column: torch.Tensor) -> None:
        super().__init__(max_cache_len=keys.shape[2])
        self.keys, self.values, self.column, self.is_initialized = keys, values, column, True

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args, **kwargs):
        self.keys.index_copy_(2, self.column, key_states)
        self.values.index_copy_(2, self.column, value_states)
        return self.keys, self.values


class StaticDecoder:
    """The rows being decoded, with everything that a step reads and writes at fixed places.

    Ended rows stay until the others fit into half the rows; `shrink_to` then moves these, and a graph of the smaller
    size is captured.

    Args:
        rows: the largest number of rows at a time.
        room: the largest number of tokens in a row, prompt included.
        draw: returns next tokens (B,) and log-probabilities (B,) for logits (B, V) and uniform numbers (B,).
    """

    def __init__(self, model, rows: int, room: int, max_new_tokens: int, draw: Draw) -> None:
        self.model, self.draw = model, draw
        embedding = model.get_input_embeddings().weight
        device, self.dtype = embedding.device, embedding.dtype
        self.room = -(-room // ROOM_UNIT) * ROOM_UNIT
        self.sizes = [rows]
        while self.sizes[-1] > SMALLEST:
            self.sizes.append(max(SMALLEST, -(-self.sizes[-1] // 2)))
        whole = {"dtype": torch.long, "device": device}
        self.column, self.step = torch.zeros(1, **whole), torch.zeros(1, **whole)  # next in cache and tokens
        self.token, self.positions = torch.zeros(rows, 1, **whole), torch.zeros(rows, 1, **whole)
        self.mask = torch.zeros(rows, 1, 1, self.room, dtype=self.dtype, device=device)  # added to attention scores
        self.draws = torch.zeros(rows, max_new_tokens, dtype=torch.float64, device=device)
        self.tokens = torch.zeros(rows, max_new_tokens, **whole)
        self.logprobs = torch.zeros(rows, max_new_tokens, device=device)
        self.layers: list[_Layer] = []
        self.steps: dict[int, Callable[[], None]] = {}  # number of rows -> one step, as a graph if possible
        self.pool = torch.cuda.graph_pool_handle() if device.type == "cuda" else None

    def load(self, logits: torch.Tensor, cache: Cache, mask: torch.Tensor, draws: torch.Tensor, num_samples: int
             ) -> None:  # fmt: skip
        """Load new rows and draw their first token.

        Args:
            logits: (N, V), for the first token.
            cache: of the N prompts.
            mask: (N, P), of the prompts.
            draws: (B, R) uniform numbers, B = N num_samples.
        """
        rows, length, lowest = len(draws), mask.shape[1], torch.finfo(self.dtype).min
        self.size = min(size for size in self.sizes if size >= rows)
        if not self.layers:
            self.layers = [_Layer(*self._store(layer), self.column) for layer in cache.layers]
        for layer, held in zip(self.layers, cache.layers, strict=True):
            layer.keys[:rows, :, :length] = held.keys.repeat_interleave(num_samples, 0)
            layer.values[:rows, :, :length] = held.values.repeat_interleave(num_samples, 0)
        mask = mask.repeat_interleave(num_samples, 0)  # (B, P)
        self.mask.fill_(lowest)
        self.mask[:rows, 0, 0, :length].masked_fill_(mask > 0, 0.0)
        self.draws[:rows].copy_(draws)
        self.positions[:rows] = mask.sum(1, keepdim=True)
        self.column.fill_(length)
        self.step.zero_()
        self.made = 1
        self._write(rows, logits.repeat_interleave(num_samples, 0))

    def _store(self, layer) -> list[torch.Tensor]:
        """Make zeros for the keys and values of all rows: masked entries have weight 0, but must be finite."""
        return [s.new_zeros(self.sizes[0], s.shape[1], self.room, s.shape[3]) for s in (layer.keys, layer.values)]

    def _write(self, rows: int, logits: torch.Tensor) -> None:
        """Draw a token for each of the first `rows` rows, and store it with its log-probability."""
        uniform = self.draws[:rows].index_select(1, self.step).squeeze(1)
        token, logprob = self.draw(logits, uniform)
        self.token[:rows].copy_(token[:, None])
        self.tokens[:rows].index_copy_(1, self.step, token[:, None])
        self.logprobs[:rows].index_copy_(1, self.step, logprob[:, None])
        self.step.add_(1)

    def advance(self, rows: int) -> None:
        """Feed the last token of each of the first `rows` rows, and draw the next one: a graph records this."""
        self.mask[:rows].index_fill_(3, self.column, 0.0)
        cache = Cache(layers=[_Layer(layer.keys[:rows], layer.values[:rows], self.column) for layer in self.layers])
        logits = next_logits(self.model, input_ids=self.token[:rows], attention_mask=self.mask[:rows],
                             position_ids=self.positions[:rows], past_key_values=cache)  # fmt: skip
        self._write(rows, logits)
        self.positions[:rows].add_(1)
        self.column.add_(1)

    def run_to(self, made: int) -> None:
        """Continue until each row has `made` tokens."""
        size = self.size
        for _ in range(made - self.made):
            if size not in self.steps:
                self.steps[size] = capture(lambda: self.advance(size), self.pool, self.model)
            else:
                self.steps[size]()
        self.made = made

    def drawn(self, first: int, last: int) -> tuple[list[list[int]], list[list[float]]]:
        """Return each row's tokens and log-probabilities from number `first` to before number `last`."""
        part = slice(self.size), slice(first, last)
        both = torch.stack([self.tokens[part].double(), self.logprobs[part].double()])  # exact, with one wait
        tokens, logprobs = both.tolist()
        return [[int(token) for token in row] for row in tokens], logprobs

    def shrink_to(self, lines: list[int]) -> bool:
        """Keep only these lines, moved to the front, if they fit into a smaller size; return whether they did."""
        smaller = min(size for size in self.sizes if size >= len(lines))
        if smaller == self.size:
            return False
        kept = torch.tensor(lines, device=self.tokens.device)
        stores = [store for layer in self.layers for store in (layer.keys, layer.values)]
        for store in (*stores, self.mask, self.draws, self.token, self.positions, self.tokens, self.logprobs):
            store[: len(lines)] = store[kept]
        self.size = smaller
        return True


def capture(step: Callable[[], None], pool, model) -> Callable[[], None]:
    """Run the step once, since every kernel must have run before capture, and return the replay of its CUDA graph.

    Without a GPU, or if the model's step cannot be captured, return the step itself; capture is not tried again.
    """
    if pool is None or model in _failed:
        step()
        return step
    stream, before = _side_stream(torch.cuda.current_device()), torch.cuda.current_stream()
    stream.wait_stream(before)
    with torch.cuda.stream(stream):
        step()
    before.wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
            step()  # recorded, not run
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        print(f"note: decoding without a CUDA graph ({str(error).splitlines()[0]})")
        _failed[model] = graph  # kept, because the allocator may still refer to it
        return step
    finally:
        torch.cuda.set_stream(before)  # a failed capture leaves its own stream current
    return graph.replay


_failed: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


@cache
def _side_stream(device: int) -> torch.cuda.Stream:
    """Return one stream for all captures, because cuBLAS keeps a workspace for every stream that it has seen."""
    return torch.cuda.Stream(device)
