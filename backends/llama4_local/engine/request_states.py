"""From an engine request to its state."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from llama4_local.cache.prefix_cache import PageHashes
from llama4_local.decoding.detokenizer import Detokenizer
from llama4_local.decoding.sampler import ResolvedSampling, SamplerState
from llama4_local.engine.drafting import Drafting
from llama4_local.engine.image_features import ImageFeatures
from llama4_local.engine.request_state import RequestState

if TYPE_CHECKING:
    from llama4_local.cache.page_table import PageAllocators
    from llama4_local.decoding.detokenizer import Decodes
    from llama4_local.engine.request import EngineRequest, Prefix
    from llama4_local.model.transformer import Model


@dataclass(frozen=True, slots=True)
class RequestStates:
    """Makes the states of requests.

    Args:
        model: The network.
        pages: The cache's allocators.
        tokenizer: Turns tokens into text.
        capacity: Most tokens that one sequence can hold.
        speculate: Whether sequences get drafts.
    """

    model: Model
    pages: PageAllocators
    tokenizer: Decodes
    capacity: int
    speculate: bool = False

    def new(self, request: EngineRequest) -> RequestState:
        """Return the state of a request that is about to be queued."""
        sampling = self._resolved_sampling(request)
        images = ImageFeatures(self.model, request.token_ids, request.tiles) if request.tiles else None
        begun = len(request.token_ids) + request.begun
        limit = min(request.limit, max(self.capacity, begun + request.answers))
        detokenizer = Detokenizer(
            sampling,
            request.sampling.stop_strings,
            limit - len(request.token_ids),
            decoder=self.tokenizer.decoder(),
            text_of=self.tokenizer.decode,
            written=request.written,
        )
        sampler_state = SamplerState(sampling, request.token_ids, detokenizer.written, request.mask)
        drafts = self.speculate and sampler_state.takes_drafts
        return RequestState(
            tokens=[*request.token_ids, *request.written],
            pages=self.pages.sequence(request.origin),
            page_hashes=self.page_hashes(request, images),
            limit=limit,
            priority=request.priority,
            request=request,
            sampler_state=sampler_state,
            detokenizer=detokenizer,
            images=images,
            drafting=Drafting(self.model.config.image_token_id) if drafts else None,
        )

    def page_hashes(self, of: EngineRequest | Prefix, images: ImageFeatures | None) -> PageHashes:
        """Return the hashes of a sequence's pages, none of which is covered yet."""
        # Equal tokens at another position are other keys: queries of NoPE layers depend on their position.
        salt = f"{of.cache_salt} from {of.origin}" if of.origin else of.cache_salt
        return PageHashes(self.pages.shape.page_size, salt, images.digests if images else ())

    def _resolved_sampling(self, request: EngineRequest) -> ResolvedSampling:
        generation = self.model.config.generation
        return ResolvedSampling.of(
            request.sampling,
            temperature=generation.temperature,
            top_p=generation.top_p,
            top_k=generation.top_k,
            min_p=generation.min_p,
            repetition_penalty=generation.repetition_penalty,
            stop_ids=generation.eos_token_ids,
            seed=request.seed,
            begun=request.begun,
        )
