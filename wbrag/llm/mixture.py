"""REPLUG's mixture inside the engine: K requests of a group sample every token from one pooled distribution.

vLLM imports this module in its own processes; its two classes are the same thing for its two model runners. A request
says in `SamplingParams.extra_args` which group it belongs to (`Member`). Whenever a step holds all requests of a group
with the same number of generated tokens, their rows of logits are replaced by their pooled log-probabilities, so all of
them sample the same token. A request that is alone, ahead or behind (its group was split by a full batch, a chunked
prefill, a preemption) gets a row that no model makes: one token, the end token, with everything else impossible. So it
ends at once, and the caller sees it (`out_of_step`) and asks the whole group again.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from vllm.v1.sample.logits_processor import BatchUpdate, MoveDirectionality
from vllm.v1.sample.logits_processor import LogitsProcessor as LogitsProcessorV1
from vllm.v1.worker.gpu.sample.logits_processor import LogitsProcessor as LogitsProcessorV2

if TYPE_CHECKING:
    from vllm import SamplingParams
    from vllm.config import VllmConfig
    from vllm.outputs import CompletionOutput
    from vllm.v1.worker.gpu.sample.logits_processor import LogitsContext, LogitsProcRequestState

KEY = "mixture"
#: Log-probabilities that a member asks for: those of the two likeliest tokens, which `out_of_step` needs.
LOGPROBS = 2
IMPOSSIBLE = -math.inf


@dataclass(frozen=True, slots=True)
class Member:
    """A request of a group: one document's prompt. The weights of a group's `size` members are > 0 and sum to 1."""

    group: str
    number: int  # 0..size-1
    size: int
    weight: float
    pooling: str  # probabilities | logits
    end: int  # the token that ends a completion

    def extra_args(self) -> dict[str, Any]:
        """The member as `SamplingParams.extra_args`."""
        return {KEY: asdict(self)}


@dataclass(frozen=True, slots=True)
class Row:
    """A member's row of this step's logits, and the tokens it has generated so far."""

    index: int
    member: Member
    generated: int


def member_of(params: SamplingParams) -> Member | None:
    """The member that `extra_args` describes, if any."""
    found = (params.extra_args or {}).get(KEY)
    return Member(**found) if found else None


def out_of_step(completion: CompletionOutput) -> bool:
    """Whether a member's completion ends in a step that its group did not take together."""
    assert completion.logprobs is not None
    last: Any = completion.logprobs[-1]
    return any(token.logprob == IMPOSSIBLE for token in last.values())


def pool(log_p: torch.Tensor, groups: Sequence[Sequence[int]], weights: torch.Tensor, pooling: str) -> torch.Tensor:
    """Log-probabilities [groups, vocabulary], pooled from those of single members, [rows, vocabulary].

    `groups` holds the rows of each group, `weights` [rows] sum to 1 in each. `probabilities` is REPLUG's mixture,
    sum w p (Shi et al., 2024, equation 2). `logits` is the mean that FlashRAG takes instead: softmax(sum w z), which is
    proportional to the weighted geometric mean of the p, whatever constant each document's logits z carry.
    """
    sums = pooling == "probabilities"
    pooled = log_p.new_full((len(groups), log_p.shape[-1]), IMPOSSIBLE if sums else 0.0)
    for number in range(max(len(group) for group in groups)):  # one member of every group at a time, in a fixed order
        which = [i for i, group in enumerate(groups) if number < len(group)]
        rows = [groups[i][number] for i in which]
        if sums:
            pooled[which] = torch.logaddexp(pooled[which], log_p[rows] + weights[rows, None].log())
        else:
            pooled[which] += weights[rows, None] * log_p[rows]
    return pooled if sums else pooled.log_softmax(-1)


def mix(logits: torch.Tensor, rows: Iterable[Row]) -> None:
    """Replace the members' rows of `logits` [batch, vocabulary], in place: pooled, or ended where out of step."""
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        groups[row.member.group].append(row)
    together: dict[str, list[list[Row]]] = defaultdict(list)
    for group in groups.values():
        first = group[0]
        if len(group) == first.member.size and all(row.generated == first.generated for row in group):
            together[first.member.pooling].append(sorted(group, key=lambda row: row.member.number))
        else:
            index = [row.index for row in group]
            logits[index] = IMPOSSIBLE
            logits[index, first.member.end] = 0.0
    for pooling, whole in together.items():
        _mix_together(logits, whole, pooling)


def _mix_together(logits: torch.Tensor, groups: list[list[Row]], pooling: str) -> None:
    rows = [row for group in groups for row in group]
    index = torch.tensor([row.index for row in rows], device=logits.device)
    weights = torch.tensor([row.member.weight for row in rows], device=logits.device, dtype=torch.float32)
    starts = [sum(len(group) for group in groups[:i]) for i in range(len(groups))]
    places = [range(start, start + len(group)) for start, group in zip(starts, groups, strict=True)]
    pooled = pool(logits[index].log_softmax(-1, dtype=torch.float32), places, weights, pooling)
    owner = torch.tensor([i for i, group in enumerate(groups) for _ in group], device=logits.device)
    logits[index] = pooled[owner].to(logits.dtype)


class MixtureV1(LogitsProcessorV1):
    """For model runner V1 (CPU): rows are places in a persistent batch, whose changes `update_state` is told."""

    def __init__(self, vllm_config: VllmConfig, device: torch.device, is_pin_memory: bool) -> None:
        self.rows: dict[int, tuple[Member, list[int]]] = {}  # the runner goes on appending to the list of tokens

    def is_argmax_invariant(self) -> bool:
        """No: the mixture's likeliest token is not that of one document."""
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        """Follow what was removed from, added to and moved within the batch, in this order."""
        if batch_update is None:
            return
        for index in batch_update.removed:
            self.rows.pop(index, None)
        for index, params, _, generated in batch_update.added:
            self.rows.pop(index, None)
            if member := member_of(params):
                self.rows[index] = (member, generated)
        for source, target, direction in batch_update.moved:
            there, here = self.rows.pop(source, None), self.rows.pop(target, None)
            if there:
                self.rows[target] = there
            if here and direction == MoveDirectionality.SWAP:
                self.rows[source] = here

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        """`mix`, in place."""
        mix(logits, [Row(index, member, len(generated)) for index, (member, generated) in self.rows.items()])
        return logits


class MixtureV2(LogitsProcessorV2):
    """For model runner V2 (CUDA): requests have slots, and each step says which slot is in which row."""

    def __init__(self, vllm_config: VllmConfig, req_states: LogitsProcRequestState) -> None:
        self.members: dict[int, Member] = {}
        self.prompt_lengths = req_states.prompt_len

    def add_request(self, req_idx: int, sampling_params: SamplingParams) -> bool:
        """Note who has the slot now; slots are used again without a word."""
        self.members.pop(req_idx, None)
        if member := member_of(sampling_params):
            self.members[req_idx] = member
        return member is not None

    def apply(self, logits: torch.Tensor, ctx: LogitsContext) -> torch.Tensor:
        """`mix`, in place. What is generated is all that is visible less the prompt: negative in a chunked prefill."""
        slots = enumerate(ctx.idx_mapping_np.tolist())
        visible, prompts = ctx.seq_lens_upper_bound_np, self.prompt_lengths.np
        mine = [(index, slot) for index, slot in slots if slot in self.members]
        mix(logits, [Row(i, self.members[slot], int(visible[i]) - int(prompts[slot])) for i, slot in mine])
        return logits
