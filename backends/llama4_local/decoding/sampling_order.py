"""The order by which all ranks sample a step's tokens, and its form as JSON values and tensors."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from llama4_local.decoding.adjusting import adjust
from llama4_local.decoding.divided_sampling import Part, report_part, sample_part
from llama4_local.decoding.reports import Reports, reported_rows
from llama4_local.decoding.row_rules import RowRules
from llama4_local.decoding.sampler import SamplingColumns
from llama4_local.model.ranks import as_one
from llama4_local.model.transformer import part_logits
from llama4_local.ops.filters import Filters

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from llama4_local.decoding.sampler import SamplerState
    from llama4_local.model.ranks import Ranks
    from llama4_local.model.transformer import Model

COMMAND = "sample"
_NONE = RowRules()
_PLAIN = ("repetition", "presence", "frequency", "biases", "excluded", "logprobs")


@dataclass(frozen=True, slots=True)
class SamplingOrder:
    """The rows of a step that are sampled, and how.

    Args:
        rows: [count], int64: places in the step's hidden states.
        columns: Their parameters.
        rules: Their rules, over the whole vocabulary.
        excluded: Tokens that no row gets.
    """

    rows: Tensor
    columns: SamplingColumns
    rules: tuple[RowRules, ...]
    excluded: tuple[int, ...]

    @classmethod
    def of(cls, model: Model, rows: Tensor, states: Sequence[SamplerState], columns: SamplingColumns) -> SamplingOrder:
        """Return the order of a step on rank 0."""
        like = torch.empty(model.config.text.vocab_size, device=model.device)
        rules = tuple(state.rules(like) for state in states)
        placeholder = model.config.image_token_id
        excluded = () if model.excluded is None else tuple(model.excluded.tolist())
        return cls(rows, columns, rules, (*excluded, *(() if placeholder is None else (placeholder,))))

    def message(self) -> tuple[dict[str, Any], tuple[Tensor, ...]]:
        """Return it as JSON values and tensors: of penalties only the tokens that occurred."""
        filters = self.columns.filters
        tensors = [self.rows, self.columns.seeds, self.columns.steps]
        tensors += [filters.temperature, filters.top_k, filters.top_p, filters.min_p]
        rules: list[dict[str, Any]] = []
        for each in self.rules:
            rules.append(_json(each))
            if each.history is not None:
                seen, counts = each.history
                tokens = (seen | (counts > 0)).nonzero().squeeze(-1)
                tensors += [tokens, seen[tokens], counts[tokens]]
        fields = {"ranked": filters.ranked, "rules": rules, "excluded": list(self.excluded)}
        return fields, tuple(tensor.cpu() for tensor in tensors)

    @classmethod
    def read(cls, fields: Mapping[str, Any], tensors: Sequence[Tensor], vocab: int) -> SamplingOrder:
        """Return the order that a message was made of; its tensors are where those of the message are."""
        rows, seeds, steps, temperature, top_k, top_p, min_p, *rest = tensors
        filters = Filters(temperature, top_k, top_p, min_p, fields["ranked"])
        rules: list[RowRules] = []
        for rule in fields["rules"]:
            values = dict(rule)
            if values.pop("history", False):
                tokens, seen, counts, *rest = rest
                whole = seen.new_zeros(vocab), counts.new_zeros(vocab)
                values["history"] = tuple(
                    blank.index_copy(0, tokens, own) for blank, own in zip(whole, (seen, counts), strict=True)
                )
            if "allowed" in values:
                values["allowed"] = base64.b64decode(values["allowed"])
            values |= {name: tuple(map(_pair, values[name])) for name in ("biases", "excluded") if name in values}
            rules.append(RowRules(**values))
        return cls(rows, SamplingColumns(filters, seeds, steps), tuple(rules), tuple(fields["excluded"]))

    def carry_out(self, model: Model, hidden: Tensor, ranks: Ranks) -> tuple[Tensor, Reports | None]:
        """Sample with the other ranks; see `decoding.sampler.sample`.

        Args:
            model: This rank's share.
            hidden: [tokens, hidden], the step's last hidden states, alike on all ranks.
            ranks: The ranks.
        """
        logits = part_logits(model, hidden[self.rows])
        part = Part(ranks.share, model.config.text.vocab_size, ranks.gather)
        start, stop = part.start, part.start + logits.shape[-1]
        logits[:, [token - start for token in self.excluded if start <= token < stop]] = -torch.inf
        rules = [each.part(start, stop) for each in self.rules]
        unchanged = logits.clone() if reported_rows(rules) else logits
        adjust(model.ops, logits, rules)
        tokens = sample_part(logits, self.columns, part)
        return tokens, report_part(unchanged, tokens, rules, part)


def _json(rules: RowRules) -> dict[str, Any]:
    """Return the rules that a row has as JSON values; of a history only that there is one."""
    named = {name: getattr(rules, name) for name in _PLAIN if getattr(rules, name) != getattr(_NONE, name)}
    if rules.allowed is not None:
        named["allowed"] = base64.b64encode(rules.allowed).decode()
    return named | ({"history": True} if rules.history is not None else {})


def _pair(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def sample_over_ranks(
    model: Model, hidden: Tensor, rows: Tensor, states: Sequence[SamplerState], columns: SamplingColumns
) -> tuple[Tensor, Reports | None]:
    """Sample a step's tokens with the other ranks, on rank 0; see `SamplingOrder`."""
    ranks = model.ranks
    if ranks is None or not states:
        return torch.empty(0, dtype=torch.int64), None
    order = SamplingOrder.of(model, rows, states, columns)
    ranks.announce(COMMAND, *order.message())
    with as_one(ranks):
        return order.carry_out(model, hidden, ranks)
