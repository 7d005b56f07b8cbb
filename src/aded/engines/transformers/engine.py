"""A transformers model behind the loop: its own forward pass, logits processors and stopping criteria."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from copy import copy
from typing import Any, Literal

import torch
from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteriaList
from transformers.utils.generic import ModelOutput

from aded.batch import Limits, Outcomes
from aded.budget.cost import MAX_DRAFT_TOKENS
from aded.engines.transformers import cache as kv
from aded.engines.transformers.attention import attention_windows
from aded.engines.transformers.compat import CACHE, cache_of
from aded.engines.transformers.depths import at_depths, derives_positions, taken_positions
from aded.engines.transformers.exact_kernels import library_kernels
from aded.engines.transformers.forward import ForwardRunner
from aded.engines.transformers.masks import masks
from aded.engines.transformers.positions import fixed_positions
from aded.engines.transformers.recurrent import MOST_AGAIN, Snapshot, is_recurrent
from aded.engines.transformers.sampling import SharedNoise, Stopping, multinomial
from aded.engines.transformers.scores import ForwardScores, RowScores
from aded.engines.transformers.together import Together, of_row
from aded.stats import Exactness
from aded.tree import DraftTree

# How drafts can be verified: as trees; as trees, whose chains need a mask as well; as chains; or not at all.
Way = Literal["trees", "masked", "chains", "none"]

CHUNK = 1024  # tokens of long prompts that go through the model at once
_ROOM = 256  # tokens that there is room for at first, and more as they come
TEXT_INPUTS = ("attention_mask", "position_ids", "token_type_ids")


class TransformersEngine:
    """Sequences on one model.

    Args:
        model: any decoder-only transformers model.
        input_ids: the prompts, shape (rows, length), padded on the left.
        generation_config: as `generate` prepared it.
        processors: every logits processor, in order.
        criteria: every stopping criterion.
        model_kwargs: what `generate` passes to its decoding methods (cache, masks, positions and the model's own).
        runner: how passes are run.
        exact: what holds for one prompt on this model.
        way: how drafts can be verified.
        together: whether all rows are chosen for at once.
        source: what an encoder was given, as each row's tokens: drafts are made from it too.

    Attributes:
        exact: what holds for these sequences, see `Stats.exact`.
        room: tokens a row may have at most, its prompt included.
        scores, logits: processed and raw scores of each emitted token where the configuration asks for them.
    """

    def __init__(
        self,
        model: Any,
        input_ids: Any,
        generation_config: GenerationConfig,
        processors: LogitsProcessorList,
        criteria: StoppingCriteriaList,
        model_kwargs: dict[str, Any],
        runner: ForwardRunner,
        exact: Exactness = "rounding",
        *,
        way: Way = "trees",
        together: bool = False,
        source: Sequence[Sequence[int]] = (),
    ) -> None:
        self.model, self.config, self.kwargs, self.runner = model, generation_config, model_kwargs, runner
        self._windows, self._trees = attention_windows(model), way in ("trees", "masked") and not together
        self._stateful, self._encodes = is_recurrent(model), bool(model.config.is_encoder_decoder)
        self._derives, self._taken = derives_positions(model), taken_positions(model)
        rows, self._prompt = input_ids.shape
        self.batch = rows > 1
        # In step: rows' entries end at one place, and a row that is ahead takes its last tokens in again. Else each
        # row's entries end at a place of their own, and a mask says where.
        self._in_step = self._stateful or not self._trees
        self._ragged = self.batch and not self._in_step
        self._masked = way == "masked" or runner.fixed or self._ragged
        self._vocabulary = getattr(model.get_input_embeddings(), "num_embeddings", None)
        kv.check(model_kwargs.get(CACHE))
        returns = generation_config.return_dict_in_generate
        self.scores: list[torch.Tensor] | None = [] if returns and generation_config.output_scores else None
        self.logits: list[torch.Tensor] | None = [] if returns and generation_config.output_logits else None
        returned = self.scores is not None or self.logits is not None
        self.plain_greedy = not generation_config.do_sample and not processors and not returned
        self.device = input_ids.device
        self.sampler = SharedNoise(rows) if self.batch else multinomial
        pad = getattr(generation_config, "_pad_token_tensor", None)
        self.room = max(int(generation_config.max_length), self._prompt)
        self._pad = 0 if pad is None else int(pad)
        self._all: Together | None = None
        self._chosen = 0  # by it, for each row in the step
        if together:
            running = input_ids.new_ones(rows, dtype=torch.bool)
            given = generation_config, processors, criteria, self._pad
            self._all = Together(*given, running, self.scores, self.logits)
            processors, criteria = LogitsProcessorList(), StoppingCriteriaList()
        self.processors = [of_row(processors, row) for row in range(rows)]
        self._stopping = Stopping(criteria)
        self._buffer = input_ids
        self._make_room(self._prompt + 1)
        self._lengths: list[int] = [self._prompt] * rows  # of each row in the buffer
        self._active = list(range(rows))
        self._scored: dict[int, RowScores] = {}  # of the last pass, by slot
        self._snapshot: Snapshot | None = None  # of states before the pass, where some of it may be rejected
        # Each active row's tokens that the cache does not hold, its last excepted: they are taken in again.
        self._again: list[list[int]] = [[] for _ in range(rows)]
        self._fed: list[list[int]] = []  # each active row's tokens in the pass
        self._source = [list(tokens) for tokens in source]
        self._mask_name = "decoder_attention_mask" if self._encodes else "attention_mask"
        self._mask: torch.Tensor | None = model_kwargs.get(self._mask_name)
        self._count = 0
        # Where the library masks something, or multiplies several rows at once, its bits are others.
        padded = self._mask is not None and not bool(self._mask.all())
        apart = self.batch or padded or kv.room(self.cache) is not None
        self.exact: Exactness = "none" if exact == "generate" and apart else exact

    @property
    def cache(self) -> Any:
        return self.kwargs[CACHE]

    @property
    def length(self) -> int:
        """Tokens of the longest row so far."""
        return max(self._lengths)

    def ids(self, row: int) -> Any:
        """A row's tokens so far, shape (1, length)."""
        return self._buffer[row : row + 1, : self._lengths[row]]

    def output(self) -> Any:
        """All rows' tokens so far, shape (rows, length of the longest), padded on the right."""
        return self._buffer[:, : self.length]

    def prompt(self, row: int) -> list[int]:
        """A row's prompt without its padding, behind what an encoder was given."""
        ids = self._buffer[row, : self._prompt]
        if self._mask is not None and self._mask.shape[1] == self._prompt:
            ids = ids[self._mask[row].bool().to(ids.device)]
        return [*(self._source[row] if self._source else ()), *ids.tolist()]

    def encoded(self) -> Any:
        """What an encoder made of the first row's input; None where there is none."""
        return self._of_rows(self.kwargs.get("encoder_outputs"), [0])

    def emitted(self, row: int) -> int:
        """How many tokens a row has emitted."""
        return int(self._lengths[row] - self._prompt)

    def _make_room(self, tokens: int) -> None:
        """See to it that rows of so many tokens fit."""
        if tokens > (now := self._buffer.shape[1]):
            more = self._buffer.new_full((len(self._buffer), max(_ROOM, now, tokens - now)), self._pad)
            self._buffer = torch.cat([self._buffer, more], dim=-1)

    def append(self, slot: int, token: int) -> bool:
        """Make `token` the last of a row, and keep the scores that `return_dict_in_generate` asked for."""
        if (found := self._scored[slot].chosen_from) is not None:
            for kept, scores in zip((self.scores, self.logits), found, strict=True):
                if kept is not None:
                    kept.append(scores)
        self._make_room(self._lengths[slot] + 1)
        self._buffer[slot, self._lengths[slot]] = token
        self._lengths[slot] += 1
        return self._stopping(self.ids(slot), token, self.scores) or self._lengths[slot] >= self.room

    @property
    def keeps_cache(self) -> bool:
        """Whether the cache is in the end as plain decoding leaves it: of a batch whose rows are chosen for at once."""
        return not self.batch or self._all is not None

    @property
    def together(self) -> Any:
        """Chooses for all rows at once where that was asked for; see `decode`."""
        return None if self._all is None else self._choose_together

    def _choose_together(self, place: int) -> tuple[list[int | None], list[bool]]:
        assert self._all is not None
        length = self.length
        logits = torch.stack([scores.logits(place) for scores in self._scored.values()])
        tokens = self._all.choose(self._buffer[:, :length], logits.to(self.device, copy=True))
        self._make_room(length + 1)
        self._buffer[:, length] = tokens
        self._lengths = [length + 1] * len(self._lengths)
        ended = self._all.ended(self._buffer[:, : length + 1])
        going = self._all.goes_on() if length + 1 < self.room else [False] * len(ended)
        self._chosen = place + 1
        said: list[int] = tokens.tolist()
        return [None if over else token for token, over in zip(said, ended, strict=True)], going

    def limits(self, slots: Sequence[int]) -> Limits:
        """A path of d drafted tokens emits d + 1, and a static cache has only so many entries left."""
        left = kv.room(self.cache)
        again = [len(self._again[self._active.index(slot)]) for slot in slots] if self._in_step else None
        if self._stateful and again is not None and min(again) >= MOST_AGAIN:
            left = 1
        nodes = MAX_DRAFT_TOKENS if left is None else min(left - 1, MAX_DRAFT_TOKENS)
        going = [True] * len(slots) if self._all is None else self._all.goes_on()
        depth = [(self.room - self._lengths[slot] - 1) * on for slot, on in zip(slots, going, strict=True)]
        return Limits(
            depth, nodes=nodes, trees=self._trees, vocabulary=self._vocabulary, again=again, restores=self._stateful
        )

    def prefill(self, top_k: int) -> list[RowScores]:
        """Run the prompts, by the model's own prefill."""
        if self._ragged or self.runner.fixed:
            kv.widen(self.cache)
        with library_kernels():
            outputs = self.model._prefill(self._buffer[:, : self._prompt], self._prefill_config(), self.kwargs)
        if (cache := cache_of(outputs)) is not None:
            self.kwargs[CACHE] = cache
        kv.check(self.cache)
        embedded = self.kwargs.get("inputs_embeds")
        kv.check_filled(self.cache, self._prompt if embedded is None else embedded.shape[1])
        self.runner.begin(self.cache)
        self._position = positions[..., -1:] if (positions := self.kwargs.get("position_ids")) is not None else None
        self._padding = None if self._mask is None or bool(self._mask.all()) else self._mask.bool()
        held = kv.length(self.cache)
        self._entries = [self._prompt if held is None else held] * len(self._active)  # of each row in the cache
        return self._scores(outputs.logits[:, -1:], [1] * len(self._active), top_k)

    def _prefill_config(self) -> GenerationConfig:
        """The configuration, with chunks for long prompts of text alone: a pass then takes bounded memory. Not where
        the bits are to be those of `generate`, which takes a prompt in whole."""
        chunk = max(CHUNK // len(self._active), 1)
        special = any(isinstance(x, torch.Tensor) for name, x in self.kwargs.items() if name not in TEXT_INPUTS)
        special |= self.config.prefill_chunk_size is not None or kv.room(self.cache) is not None
        special |= (
            self._stateful
            or bool(self._source)
            or self._encodes
            or self._prompt > (fixed_positions(self.model) or self._prompt)
        )
        if special or self.exact == "generate" or self._prompt <= 2 * chunk:
            return self.config
        config = copy(self.config)
        config.prefill_chunk_size = chunk
        return config

    def verify(self, slots: Sequence[int], trees: Sequence[DraftTree], top_k: int) -> list[RowScores | None]:
        """Score each row's root and every node of its tree in one forward pass."""
        rows = list(slots)
        if rows != self._active:
            self._drop_others(rows)
        leads = [len(tokens) for tokens in self._again]
        least = min(leads)
        # In step, rows that are far ahead take in tokens they have, and wait for the others.
        widest = max(lead + len(tree) + 1 for lead, tree in zip(leads, trees, strict=True) if lead == least)
        self._count = count = self.runner.tokens(self.cache, widest if self._in_step else 1 + max(map(len, trees)))
        steps = torch.zeros(len(rows), count, dtype=torch.long)
        depths = torch.arange(count if self._in_step else 1).expand(len(rows), -1)
        depths = torch.nn.functional.pad(depths, (0, count - depths.shape[1]))
        self._fed = []
        fills = [0] * len(rows)
        if self._all is not None:  # rows that have ended are filled up as plain decoding does
            fills = [0 if on else self._pad for on in self._all.goes_on()]
        for i, (row, tree) in enumerate(zip(rows, trees, strict=True)):
            last = int(self._buffer[row, self._lengths[row] - 1])
            filled = [fills[i]] * (count if self._all is not None else 0)
            self._fed.append([*self._again[i], last, *tree.tokens.tolist(), *filled][:count])
            steps[i, : len(self._fed[i])] = torch.tensor(self._fed[i])
            if not self._in_step:
                depths[i, 1 : len(tree) + 1] = torch.from_numpy(tree.depths) + 1
        risky = self._stateful and (any(map(len, trees)) or min(map(len, self._fed)) < count)
        self._snapshot = Snapshot(self.cache) if risky else None
        held = self._longest() if self._ragged else self._lengths[rows[0]] - 1 - leads[0]
        ids = torch.cat([self._buffer[rows, :held], steps.to(self._buffer)], dim=-1)
        kwargs = dict(self.kwargs)
        if self._mask is not None:
            kwargs[self._mask_name] = torch.cat([self._mask, self._mask.new_ones(len(rows), count)], dim=-1)
        if self._position is not None:
            kwargs["position_ids"] = self._position + 1 + depths.to(self._position)
        for name in ("token_type_ids", "mm_token_type_ids"):
            if (types := kwargs.get(name)) is not None:
                kwargs[name] = types[:, -1:].expand(-1, count)
        if kwargs.get("logits_to_keep") is not None:
            kwargs["logits_to_keep"] = count
        inputs = self.model.prepare_inputs_for_generation(ids, next_sequence_length=count, **kwargs)
        if 0 < (inputs.get("logits_to_keep") or 0) < count:  # some models ask for the last alone by themselves
            inputs["logits_to_keep"] = count
        if self._masked or not trees[0].is_chain:
            lengths = self._entries if self._ragged else None
            shown = trees if self._all is None else [DraftTree.chain(fed[1:]) for fed in self._fed]
            inputs[self._mask_name] = masks(self.model, self._windows, self.cache, shown, count, lengths, self._padding)
        if self._taken is not None:
            inputs[self._taken] = (held + depths).to(self.device)
        with at_depths(depths[0].tolist(), held) if self._derives else nullcontext():
            logits = self.runner.run(inputs).logits[:, -count:][:, least:]
        firsts = [lead - least for lead in leads]
        scores = self._scores(logits, [len(tree) + 1 for tree in trees], top_k, firsts)
        return [one if first < logits.shape[1] else None for one, first in zip(scores, firsts, strict=True)]

    def commit(self, outcomes: Outcomes) -> None:
        """Keep each root's entry and those of the nodes that stay."""
        kept = [[0, *(node + 1 for node in outcome.kept)] for outcome in outcomes]
        if self._in_step:
            kept = [list(range(self._advance(outcomes)))] * len(kept)
        if self._ragged:
            kv.keep_rows(self.cache, self._entries, kept)
        else:
            kv.keep(self.cache, self._count, kept[0])
        self._entries = [before + len(rows) for before, rows in zip(self._entries, kept, strict=True)]
        if self._mask is not None:
            grown = self._longest() - self._mask.shape[1]
            self._mask = torch.cat([self._mask, self._mask.new_ones(len(kept), grown)], dim=-1)
        if self._position is not None:
            self._position = self._position + torch.tensor([[len(rows)] for rows in kept]).to(self._position)

    def _advance(self, outcomes: Outcomes) -> int:
        """In step: tokens of the pass that all rows keep; what else they have is to be taken in again."""
        rows = zip(self._fed, self._again, outcomes, strict=True)
        if self._all is not None:
            told = [fed[: len(again) + self._chosen] for fed, again, _ in rows]
            shared = min(map(len, told))
        else:
            told = [fed[: len(again) + len(outcome.kept) + 1] for fed, again, outcome in rows]
            running = [len(fed) for fed, outcome in zip(told, outcomes, strict=True) if not outcome.finished]
            shared = min(running or map(len, told))
        if self._snapshot is not None and shared < self._count:
            self._snapshot.restore()
            shared = 0
        known = zip(told, self._again, strict=True)
        self._again = [[*fed, *again[len(fed) :]][shared:] for fed, again in known]
        return shared

    def settle(self) -> None:
        """At the end: take in what was dropped with rejected drafts, for a cache that goes back to the caller."""
        if self._again[0] and self.keeps_cache and self.config.return_dict_in_generate:
            for tokens in self._again:
                tokens.pop()
            lengths, self._lengths = self._lengths, [length - 1 for length in self._lengths]
            self.verify(self._active, [DraftTree.empty()] * len(self._active), 0)
            self._lengths = lengths  # the last that is taken in is not the last that was emitted

    def abandon(self) -> None:
        """After an error: leave no entry in the cache of the pass that was not committed."""
        if self.keeps_cache and hasattr(self, "_entries"):
            kv.cut(self.cache, self._entries[0])

    def _longest(self) -> int:
        """Entries of the longest row in the cache, where a step's entries begin."""
        return max(self._entries)

    def _scores(
        self, logits: torch.Tensor, counts: Sequence[int], top_k: int, firsts: Sequence[int] = ()
    ) -> list[RowScores]:
        """Of each active row, whose root is token `firsts[i]` of the logits, or the first."""
        scored = ForwardScores(logits, top_k)
        places = zip(self._active, counts, firsts or [0] * len(self._active), strict=True)
        scores = [RowScores(self, scored, i, row, count, first) for i, (row, count, first) in enumerate(places)]
        self._scored = dict(zip(self._active, scores, strict=True))
        return scores

    def _drop_others(self, rows: Sequence[int]) -> None:
        """Go on with these rows only: those that have ended cost nothing more."""
        places = [self._active.index(row) for row in rows]
        self._entries = [self._entries[place] for place in places]
        self._again = [self._again[place] for place in places]
        kv.select_rows(self.cache, places, self._longest())
        for name in ("_mask", "_padding", "_position"):
            if (value := getattr(self, name)) is not None:
                # Positions of several kinds stand before the rows.
                setattr(self, name, value.index_select(-2, torch.tensor(places, device=value.device)))
        if self._mask is not None:
            self._mask = self._mask[:, : self._longest()]
        self.kwargs |= {name: self._of_rows(value, places) for name, value in self.kwargs.items()}
        self._active = list(rows)

    def _of_rows(self, value: Any, places: Sequence[int]) -> Any:
        """What the model is given besides, for these of the active rows."""
        if isinstance(value, ModelOutput):  # of an encoder
            chosen = copy(value)
            for name, part in value.items():
                chosen[name] = self._of_rows(part, places)
            return chosen
        if isinstance(value, torch.Tensor) and value.ndim and value.shape[0] == len(self._active):
            return value[torch.tensor(places, device=value.device)]
        return value
