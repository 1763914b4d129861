"""The operations of the API, by resource. A photo is the bytes of a file, or its path."""

from collections.abc import Mapping, Sequence
from typing import Literal
from uuid import uuid4

from pydantic_core import to_json

from serve.client.call import Call, Json, Operation, Photo, arguments, encode_photo, path_segment
from serve.core.fields import FieldName
from serve.schemas.campaigns import AudienceResponse, CopyResponse
from serve.schemas.events import EventsResponse
from serve.schemas.items import ChangesResponse
from serve.schemas.recommend import CandidatesResponse, RankResponse
from serve.schemas.releases import ReleasesResponse
from serve.schemas.search import ItemResponse, ItemsResponse, SearchResponse, SuggestResponse
from serve.schemas.users import ErasureResponse, PreferencesResponse, UserResponse


class SearchOperations:
    """Search, similar and related items, autocompletion."""

    @Operation
    @staticmethod
    def search(
        *,
        text: str | None = None,
        image: Photo | None = None,
        like: Sequence[str] | None = None,
        unlike: Sequence[str] | None = None,
        weights: Mapping[str, float] | None = None,
        filter: Json | None = None,
        exclude: Sequence[str] | None = None,
        spaces: Sequence[str] | None = None,
        understand: bool | None = None,
        facets: Sequence[str] | None = None,
        user_id: str | None = None,
        history: Sequence[Json] | None = None,
        personalization: float | None = None,
        explain: bool | None = None,
        k: int | None = None,
        fields: Sequence[FieldName] | None = None,
    ) -> Call[SearchResponse]:
        """Search by text, photo, example items, or all of them together."""
        return Call("POST", "/v1/search", SearchResponse, arguments({**locals(), "image": encode_photo(image)}))

    @Operation
    @staticmethod
    def similar(
        item_ids: str | Sequence[str],
        *,
        space: str | None = None,
        filter: Json | None = None,
        user_id: str | None = None,
        history: Sequence[Json] | None = None,
        personalization: float | None = None,
        explain: bool | None = None,
        k: int | None = None,
        fields: Sequence[FieldName] | None = None,
    ) -> Call[ItemsResponse]:
        """Find items similar to one, or to several together."""
        item_ids = [item_ids] if isinstance(item_ids, str) else item_ids
        return Call("POST", "/v1/similar", ItemsResponse, arguments(locals()))

    @Operation
    @staticmethod
    def related(
        item_id: str,
        *,
        relation: str | None = None,
        kind: Literal["complement", "substitute", "related"] | None = None,
        filter: Json | None = None,
        k: int | None = None,
        fields: Sequence[FieldName] | None = None,
    ) -> Call[ItemsResponse]:
        """Find items related to one by the shop's own relations."""
        params = arguments({**locals(), "filter": None if filter is None else to_json(filter).decode()}, "item_id")
        return Call("GET", f"/v1/items/{path_segment(item_id)}/related", ItemsResponse, params=params)

    @Operation
    @staticmethod
    def suggest(q: str, *, k: int | None = None) -> Call[SuggestResponse]:
        """Autocomplete a query."""
        return Call("GET", "/v1/suggest", SuggestResponse, params=arguments(locals()))


class RecommendOperations:
    """Recommendations, candidates, ranking."""

    @Operation
    @staticmethod
    def recommend(
        *,
        user_id: str | None = None,
        history: Sequence[Json] | None = None,
        filter: Json | None = None,
        exclude: Sequence[str] | None = None,
        from_: Sequence[str] | None = None,
        to: Sequence[str] | None = None,
        explain: bool | None = None,
        diversity: float | None = None,
        explore: bool | None = None,
        log: bool | None = None,
        k: int | None = None,
        fields: Sequence[FieldName] | None = None,
    ) -> Call[ItemsResponse]:
        """Recommend items to a user."""
        return Call("POST", "/v1/recommend", ItemsResponse, arguments(locals()))

    @Operation
    @staticmethod
    def candidates(
        *,
        user_id: str | None = None,
        history: Sequence[Json] | None = None,
        filter: Json | None = None,
        exclude: Sequence[str] | None = None,
        from_: Sequence[str] | None = None,
        to: Sequence[str] | None = None,
        k: int | None = None,
    ) -> Call[CandidatesResponse]:
        """List up to thousands of candidates for a user, with the score of every retriever."""
        return Call("POST", "/v1/candidates", CandidatesResponse, arguments(locals()))

    @Operation
    @staticmethod
    def rank(
        item_ids: Sequence[str],
        *,
        user_id: str | None = None,
        history: Sequence[Json] | None = None,
        explain: bool | None = None,
        fields: Sequence[FieldName] | None = None,
    ) -> Call[RankResponse]:
        """Rank items for a user."""
        return Call("POST", "/v1/rank", RankResponse, arguments(locals()))


class ItemOperations:
    """Items and their live changes."""

    @Operation
    @staticmethod
    def item(item_id: str) -> Call[ItemResponse]:
        """Get an item with all catalogue fields."""
        return Call("GET", f"/v1/items/{path_segment(item_id)}", ItemResponse)

    @Operation
    @staticmethod
    def put_items(items: Sequence[Json]) -> Call[ChangesResponse]:
        """Add or replace items."""
        return Call("PUT", "/v1/items", ChangesResponse, arguments(locals()), changes=True)

    @Operation
    @staticmethod
    def patch_items(items: Sequence[Json]) -> Call[ChangesResponse]:
        """Change price, availability and other fields that no encoder reads."""
        return Call("PATCH", "/v1/items", ChangesResponse, arguments(locals()), changes=True)

    @Operation
    @staticmethod
    def delete_items(item_ids: Sequence[str]) -> Call[ChangesResponse]:
        """Delete items."""
        return Call("DELETE", "/v1/items", ChangesResponse, arguments(locals()), changes=True)


class EventOperations:
    """User events."""

    @Operation
    @staticmethod
    def send_events(events: Sequence[Json]) -> Call[EventsResponse]:
        """Record user events. An event without `event_id` gets one, so that a retry counts it once."""
        identified = [event if event.get("event_id") else {**event, "event_id": uuid4().hex} for event in events]
        return Call("POST", "/v1/events", EventsResponse, {"events": identified})


class UserOperations:
    """Users."""

    @Operation
    @staticmethod
    def user(user_id: str) -> Call[UserResponse]:
        """Get a user's history and preferences."""
        return Call("GET", f"/v1/users/{path_segment(user_id)}", UserResponse)

    @Operation
    @staticmethod
    def set_preferences(
        user_id: str,
        *,
        personal: bool | None = None,
        marketing: bool | None = None,
        explore: bool | None = None,
        blocked_items: Sequence[str] | None = None,
        blocked_categories: Sequence[str] | None = None,
        blocked_brands: Sequence[str] | None = None,
    ) -> Call[PreferencesResponse]:
        """Replace all preferences of a user."""
        body = arguments(locals(), "user_id")
        return Call("PUT", f"/v1/users/{path_segment(user_id)}/preferences", PreferencesResponse, body, changes=True)

    @Operation
    @staticmethod
    def erase_user(user_id: str) -> Call[ErasureResponse]:
        """Erase a user."""
        return Call("DELETE", f"/v1/users/{path_segment(user_id)}", ErasureResponse, changes=True)

    preferences, forget = set_preferences, erase_user  # names of version 0.1


class CampaignOperations:
    """Audiences and texts."""

    @Operation
    @staticmethod
    def audience(
        *,
        item_id: str | None = None,
        text: str | None = None,
        image: Photo | None = None,
        size: int | None = None,
        campaign: str | None = None,
        cap: Mapping[str, float] | None = None,
        holdout: float | None = None,
        again: bool | None = None,
        record: bool = False,
    ) -> Call[AudienceResponse]:
        """Find the users who will most probably interact with an item or a creative."""
        body = arguments({**locals(), "image": encode_photo(image)})
        return Call("POST", "/v1/audience", AudienceResponse, body, changes=record)

    @Operation
    @staticmethod
    def copy(
        item_id: str,
        *,
        style: Literal["title", "reason", "ad"] | None = None,
        language: Literal["en", "de", "fr", "es", "it"] | None = None,
        segment: str | None = None,
    ) -> Call[CopyResponse]:
        """Write a text for an item."""
        return Call("POST", f"/v1/items/{path_segment(item_id)}/copy", CopyResponse, arguments(locals(), "item_id"))


class ReleaseOperations:
    """Releases."""

    @Operation
    @staticmethod
    def releases() -> Call[ReleasesResponse]:
        """List the releases on disk, and the active one."""
        return Call("GET", "/v1/releases", ReleasesResponse)

    @Operation
    @staticmethod
    def activate(release: str) -> Call[ReleasesResponse]:
        """Activate a release."""
        return Call("POST", f"/v1/releases/{path_segment(release)}/activate", ReleasesResponse, changes=True)

    @Operation
    @staticmethod
    def ready() -> Call[dict[str, str]]:
        """Get the active release; raises Unavailable while there is none."""
        return Call("GET", "/readyz", dict[str, str])


class Operations(
    SearchOperations,
    RecommendOperations,
    ItemOperations,
    EventOperations,
    UserOperations,
    CampaignOperations,
    ReleaseOperations,
):
    """All operations."""
