"""ADED: learns the target's distribution at every scored position, and drafts the likeliest trees or chains."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy, deepcopy
from pathlib import Path

from aded.deprecation import renamed_option
from aded.drafters.adaptive_slots import AdaptiveSession, AdaptiveSlots
from aded.drafters.base import Session, register
from aded.drafters.learning import CHOICE_WEIGHT
from aded.drafters.sharing import Share, check_share
from aded.representative import Corpus, InterpolationWeights, Representative
from aded.representative.tenants import Tenants, load_tables, save_tables
from aded.search import best_first, mcts
from aded.tree import DraftTree

_SEARCHES: dict[str, Callable[..., DraftTree]] = {"best_first": best_first, "mcts": mcts}

# Observations it takes to believe a context half, by its length: where the interpolation starts before it knows better.
_PRIOR_STRENGTH = {0: 1.0, 1: 0.6, 2: 1.0, 3: 1.0, 5: 1.0, 8: 0.5}


def initial_weights(shared: Sequence[Representative | Corpus], *, own: bool) -> InterpolationWeights:
    """What to believe at first of shared tables, and of each sequence's own before them if there is one."""
    orders = sorted({order for layer in shared for order in layer.orders})
    return InterpolationWeights(orders, len(shared) + own, [_PRIOR_STRENGTH.get(order, 1.0) for order in orders])


@register("adaptive")
class AdaptiveDrafter:
    """The default drafter: a representative shared by all sequences, a small one of each sequence's own before it.

    Args:
        representative: learned state to draft from and add to; a new one of `memory_mb` MiB when left out.
        memory_mb: memory of a new shared representative.
        successors: continuations it keeps for each context.
        reserve: take all of its memory at once, and not little by little while it learns.
        sequence_mb: memory of each sequence's own, released with the sequences; 0 for none.
        sequence_successors: continuations kept for each context there; None: as many as in the shared one.
        search: "best_first" or "mcts".
        top_k: how many of the target's likeliest tokens are learned at each scored position.
        choice_weight: how much of what is learned at a position is the token chosen there; the rest is the
            distribution.
        share: what other sequences, and a file of what was learned, get of a sequence. "answers": the tokens that the
            target said, and nothing of what it was asked; "nothing"; or "all": prompts too, and what the target thought
            likely besides what it said. A sequence's own table, which goes with it, learns everything.
        tenant_mb: memory of each tenant's table, see `sharing`.
        tenants_mb: memory of all of these together: the tenant that was not heard of for longest is forgotten for a new
            one, and its table is there until its calls have ended.
        corpus: read after what was learned: a corpus, or the path of one. It is shared between processes and does not
            count as memory of this drafter.
        weights: how far tables are believed at first, and how that is learned; by default counts decide at first.
        share_prompts: the old form of `share`: True is "all", False "answers".
    """

    def __init__(
        self,
        representative: Representative | None = None,
        *,
        memory_mb: float = 60.0,
        successors: int = 24,
        reserve: bool = False,
        sequence_mb: float = 4.0,
        sequence_successors: int | None = None,
        search: str = "best_first",
        top_k: int = 8,
        choice_weight: float = CHOICE_WEIGHT,
        share: Share = "answers",
        tenant_mb: float = 8.0,
        tenants_mb: float = 128.0,
        corpus: Corpus | str | Path | None = None,
        weights: InterpolationWeights | None = None,
        share_prompts: bool | None = None,
    ) -> None:
        share = renamed_option("share_prompts", _share_of(share_prompts), "share", share, "answers")
        if search not in _SEARCHES:
            raise ValueError(f"search must be one of {', '.join(_SEARCHES)}, not {search!r}")
        self.representative = representative or Representative(memory_mb=memory_mb, successors=successors)
        if reserve and representative is None:
            self.representative.clear()
        self.sequence_mb = sequence_mb
        self.sequence_successors = sequence_successors or self.representative.successors
        self.top_k, self.choice_weight, self.share = top_k, choice_weight, check_share(share or "")
        self.search = _SEARCHES[search]
        self.corpus = Corpus.open(corpus) if isinstance(corpus, str | Path) else corpus
        self.shared: list[Representative | Corpus] = [self.representative]
        if self.corpus is not None:
            self.corpus.check(self.representative)
            self.shared.append(self.corpus)
        self.weights = weights or initial_weights(self.shared, own=sequence_mb > 0)
        self._first_weights = deepcopy(self.weights)
        if not 0 < tenant_mb <= tenants_mb:
            raise ValueError(f"tenant_mb must be positive and at most tenants_mb, not {tenant_mb} of {tenants_mb}")
        tenants = (tenant_mb, int(tenants_mb / tenant_mb))
        self._tenants: Tenants[AdaptiveDrafter] = Tenants(self.representative, *tenants)

    def sharing(self, share: Share | None = None, tenant: str | None = None) -> AdaptiveDrafter:
        """This drafter as one call is to use it.

        Args:
            share: what others get of the call's sequences; None: as the drafter was made.
            tenant: on whose behalf it is: a tenant has a table of its own, read and learned into in place of the common
                one. What one tenant asks and is answered changes no draft of another's. Where calls of so many are
                answered at once that tables they no longer have take as much memory as all are to, further ones have
                none, and nothing of them is kept.
        """
        drafter = self if tenant is None else self._tenants.of(tenant, self._of_tenant)
        if drafter is None:  # there are as many as may be
            drafter, share = self._of_tenant(self._tenants.nothing), "nothing"
        if share is None or share == drafter.share:
            return drafter
        other = copy(drafter)
        other.share = check_share(share)
        if share == "nothing":
            other.weights = deepcopy(drafter.weights)
        return other

    def _of_tenant(self, table: Representative) -> AdaptiveDrafter:
        """One with this table in place of the common one."""
        drafter = copy(self)
        drafter.representative, drafter.shared = table, [table, *self.shared[1:]]
        drafter.weights = deepcopy(self._first_weights)
        drafter._tenants = Tenants(table, 1.0, 1)  # a tenant has none
        return drafter

    @property
    def tenant_mb(self) -> float:
        """Memory of each tenant's table."""
        return self._tenants.memory_mb

    @property
    def most_tenants(self) -> int:
        """Tenants that are kept."""
        return self._tenants.most

    @property
    def tenant_tables(self) -> list[Representative]:
        """Those of the tenants that are kept."""
        return list(self._tenants.tables.values())

    @property
    def nbytes(self) -> int:
        """Bytes of learned state: what is shared, with all or within tenants, and one sequence's own."""
        tenants = sum(table.nbytes for table in self._tenants.tables.values())
        return self.representative.nbytes + tenants + int(self.sequence_mb * 2**20)

    @property
    def clock(self) -> int:
        """Times it learned, from tenants too; grows whenever it does."""
        return self.representative.clock + self._tenants.clock

    @property
    def context_length(self) -> int:
        """Tokens of context a draft looks at."""
        return max(layer.orders[-1] for layer in self.shared)

    def start(self, prompt: Sequence[int]) -> Session:
        """Begin a sequence; its prompt is learned as text."""
        slots = AdaptiveSlots(self, 1)
        slots.start(0, prompt)
        return AdaptiveSession(slots)

    def open(self, count: int) -> AdaptiveSlots:
        """Slots for so many sequences, drafted for and learned from together."""
        return AdaptiveSlots(self, count)

    def scratch(self) -> AdaptiveDrafter:
        """One that knows nothing and takes little memory."""
        return AdaptiveDrafter(memory_mb=1)

    def bind(self, vocab_size: int, fingerprint: str) -> None:
        """Say whose tokens it drafts.

        Raises:
            CorpusFileError: the corpus is of another vocabulary or tokenizer.
        """
        for table in [self.representative, *self._tenants.tables.values()]:
            table.vocab_size, table.fingerprint = vocab_size, fingerprint
        if self.corpus is not None:
            self.corpus.check(self.representative)

    def save(self, path: str | Path) -> None:
        """Save what was learned, that of all tenants in the same file; see `Representative.save`."""
        save_tables(path, self.representative, self._tenants.tables)

    def load(self, path: str | Path) -> None:
        """Load what was learned, that of tenants too; see `Representative.load`."""
        tables = load_tables(path, self.representative, self._tenants.new, self._tenants.most)
        self._tenants.put(tables, self._of_tenant)


def _share_of(prompts: bool | None) -> Share | None:
    return None if prompts is None else "all" if prompts else "answers"
