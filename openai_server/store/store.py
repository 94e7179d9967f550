"""The store as the rest of the sidecar uses it: one method for each transaction."""

from collections.abc import Collection, Mapping, Sequence
from functools import partial

from openai_server.core.store_errors import Superseded
from openai_server.store.batch_store import BatchStore
from openai_server.store.file_store import FileStore
from openai_server.store.link import Link
from openai_server.store.records import (
    Base,
    Conversation,
    Ending,
    EventBatch,
    History,
    Item,
    NewResponse,
    Page,
    PageRequest,
    Progress,
    Recovered,
    Run,
    Sizes,
    StoredResponse,
)
from openai_server.store.settings import Observe as Observe
from openai_server.store.settings import StoreSettings as StoreSettings


class Store:
    """Transactions run beside the event loop. All methods but `open` and `close` raise StoreAway if the database
    doesn't answer; those with an `owner` treat what belongs to another owner as missing. Everything that a method has
    changed is committed when it returns.

    `runner` is this process' id for leases, unique for each start. `observe` is called on the event loop.
    """

    def __init__(self, settings: StoreSettings, *, runner: str, observe: Observe = lambda *_: None) -> None:
        self._begun: set[str] = set()
        """Ids of the responses that `begin` added and that have not ended."""
        self._link = Link(settings, runner=runner, observe=observe)
        self.batches = BatchStore(self._link)
        self.files = FileStore(self._link, max_bytes=settings.max_file_bytes)

    @property
    def is_away(self) -> bool:
        """Whether the last attempt to reach the database failed. `watch` tries again."""
        return self._link.is_away

    async def open(self) -> None:
        """Imports SQLAlchemy, connects and migrates, all of it beside the event loop. A server that can't be reached
        is no error: the store is away until `watch` reaches it. Raises BadStore for a file that can't be opened, or a
        database that is not a store."""
        await self._link.open()

    async def watch(self) -> None:
        """Reconnects while the store is away, keeps this runner's heartbeat, and sweeps expired objects (one process
        at a time does). Runs until cancelled."""
        await self._link.watch()

    async def close(self) -> None:
        await self._link.close()

    # ---- Responses

    async def history(
        self, owner: str, base: Base, *, max_bytes: int, max_items: int, may_be_deleted: bool = False
    ) -> History:
        """The items that a response with this base continues: those of the base of the previous response, its input and
        its output; or all items of the conversation.

        `may_be_deleted`: whether the previous response may have been deleted, for a stored response that keeps its
        items. Raises PreviousResponseNotFound (also if an older response of the chain is lost),
        PreviousResponseUnfinished for one that is queued or in progress, ConversationNotFound (param `conversation`),
        HistoryTooLarge.
        """
        contexts = self._link.parts.contexts
        limits = (max_bytes, max_items)
        return await self._link.read("history", contexts.history, owner, base, *limits, may_be_deleted=may_be_deleted)

    async def items_by_id(self, owner: str, ids: Sequence[str]) -> Mapping[str, bytes]:
        """The bodies of the owner's items with these ids, in responses or conversations; the newest one if several have
        the id. Ids without an item are left out."""
        return await self._link.read("items_by_id", self._link.parts.contexts.items_by_id, owner, ids)

    async def check_quota(self, owner: str) -> None:
        """Raises StoreQuotaExceeded if the owner can't store anything more."""
        await self._link.read("check_quota", self._link.parts.quota.check, owner)

    async def begin(self, response: NewResponse) -> None:
        """Adds a response that this process generates, `in_progress`. If this process ends, it becomes `failed`.

        Raises StoreQuotaExceeded, and what `history` raises for a base that has been deleted meanwhile.
        """
        self._begun.add(response.id)
        try:
            async with self._link.stowing() as stowage:
                stowed = await stowage.response(response)
                await self._link.write("begin", self._link.parts.responses.begin, stowed)
        except BaseException:
            self._begun.discard(response.id)  # if it was committed nevertheless, `recover` finds it
            raise

    async def queue(self, response: NewResponse, request: bytes) -> None:
        """Adds a background response, `queued`. Raises what `begin` raises."""
        async with self._link.stowing() as stowage:
            stowed = await stowage.response(response)
            stowed_request = await stowage.request(request)
            await self._link.write("queue", self._link.parts.responses.queue, stowed, stowed_request)

    async def finish(self, response: NewResponse, ending: Ending, *, has_begun: bool) -> None:
        """Ends a response that `begin` added, or adds one that has ended (`has_begun` is false). If its status is one
        of CONTINUED and its base is a conversation, its input and output are appended to that, in the same transaction.

        Raises Superseded if it has been deleted since `begin`, or failed because this process' lease expired; without
        `begin`, if there is such a response already, and what `begin` raises. A conversation that was deleted since
        `begin` gets no items, which is no error.
        """
        responses = self._link.parts.responses
        try:
            async with self._link.stowing() as stowage:
                ending = await stowage.ending(ending)
                if has_begun:
                    await self._link.write("finish", responses.finish_begun, response, ending)
                else:
                    stowed = await stowage.response(response)
                    await self._link.write("finish", responses.add_finished, stowed, ending)
        except Superseded:
            self._begun.discard(response.id)
            raise
        self._begun.discard(response.id)

    async def append(self, owner: str, conversation_id: str, items: Sequence[Item]) -> None:
        """Appends the items of a response that isn't kept. Raises ConversationNotFound and StoreQuotaExceeded."""
        conversations = self._link.parts.conversations
        async with self._link.stowing() as stowage:
            stowed = await stowage.items(items)
            await self._link.write("append", conversations.append, owner, conversation_id, stowed)

    async def response(self, owner: str, id: str) -> StoredResponse:
        """Raises ResponseNotFound."""
        return await self._link.read("response", self._link.parts.responses.response, owner, id)

    async def delete_response(self, owner: str, id: str) -> None:
        """Deletes a response in any status. Its items stay only as far as living responses continue it, or as items of
        its conversation. Raises ResponseNotFound."""
        await self._link.write("delete_response", self._link.parts.delete_response, owner, id)
        self._begun.discard(id)

    async def input_items(self, owner: str, id: str, page: PageRequest) -> Page:
        """A part of the items that the response was generated from: history and own input.

        Raises ResponseNotFound, and ItemNotFound (param `after`).
        """
        return await self._link.read("input_items", self._link.parts.contexts.input_items, owner, id, page)

    # ---- Conversations

    async def create_conversation(
        self, owner: str, id: str, created_at: float, metadata: bytes, items: Sequence[Item]
    ) -> None:
        """Raises StoreQuotaExceeded."""
        conversations = self._link.parts.conversations
        async with self._link.stowing() as stowage:
            stowed = await stowage.items(items)
            await self._link.write("create_conversation", conversations.create, owner, id, created_at, metadata, stowed)

    async def conversation(self, owner: str, id: str) -> Conversation:
        """Raises ConversationNotFound, as all of these do."""
        return await self._link.read("conversation", self._link.parts.conversations.conversation, owner, id)

    async def set_metadata(self, owner: str, id: str, metadata: bytes) -> Conversation:
        conversations = self._link.parts.conversations
        return await self._link.write("set_metadata", conversations.set_metadata, owner, id, metadata)

    async def delete_conversation(self, owner: str, id: str) -> None:
        """Its responses stay, with the items that are their own input and output."""
        parts = self._link.parts
        has_more = await self._link.write("delete_conversation", parts.delete_conversation, owner, id)
        while has_more:
            has_more = await self._link.write("delete_conversation", parts.delete_items, owner, id)

    async def add_items(self, owner: str, id: str, items: Sequence[Item]) -> None:
        """Raises ItemExists and StoreQuotaExceeded too."""
        conversations = self._link.parts.conversations
        async with self._link.stowing() as stowage:
            stowed = await stowage.items(items)
            await self._link.write("add_items", conversations.add_items, owner, id, stowed)

    async def items(self, owner: str, id: str, page: PageRequest) -> Page:
        """Raises ItemNotFound (param `after`) too."""
        return await self._link.read("items", self._link.parts.conversations.items, owner, id, page)

    async def item(self, owner: str, id: str, item_id: str) -> Item:
        """Raises ItemNotFound too."""
        return await self._link.read("item", self._link.parts.conversations.item, owner, id, item_id)

    async def delete_item(self, owner: str, id: str, item_id: str) -> Conversation:
        """Removes an item from the conversation; it stays part of the response that it is from. Raises ItemNotFound
        too."""
        conversations = self._link.parts.conversations
        return await self._link.write("delete_item", conversations.delete_item, owner, id, item_id)

    # ---- Background runs

    async def claim(self, n: int, resting: Collection[str] = ()) -> Sequence[Run]:
        """Takes up to `n` queued responses; each is then `in_progress` under this runner's lease. The owner with the
        fewest running ones is first, and its oldest response; those in `resting` get none."""
        runs = self._link.parts.runs
        if not await self._link.read("claim", runs.has_queued):  # an idle process blocks no other one's transactions
            return []
        return await self._link.write("claim", runs.claim, n, resting)

    async def beat(self, ids: Sequence[str]) -> Sequence[str]:
        """Renews this runner's lease. Returns those of these runs that are no longer this runner's: cancelled, deleted
        or taken over."""
        return await self._link.write("beat", self._link.parts.runs.beat, ids)

    async def end_runner(self) -> Recovered:
        """Recovers at once what this runner has not finished. Its lease stays: batches are under it too."""
        return await self._link.write("end_runner", self._link.parts.runs.end_runner)

    async def recover(self, running: Collection[str] = ()) -> Recovered:
        """Takes the responses of runners whose lease has expired, and those of this runner that it doesn't work on:
        neither `running` nor begun. A transaction whose commit was not confirmed leaves such a response.

        A background response of which no event was delivered is queued again, up to MAX_ATTEMPTS times, without the
        events of the last attempt; another response fails with the error `server_error`.
        """
        runs = self._link.parts.runs
        known = {*running, *self._begun}
        own, has_orphans = await self._link.read("recover", runs.recoverable)
        strays = [id for id in own if id not in known and id not in self._begun]
        if not strays and not has_orphans:
            return Recovered([], [])
        return await self._link.write("recover", runs.recover, strays)

    async def requeue(self, run: Run) -> None:
        """Gives a run back that has not begun. Raises Superseded."""
        await self._link.write("requeue", self._link.parts.runs.requeue, run)

    async def abandon(self, run: Run) -> None:
        """Gives a run back that ended without an outcome: recovers it as if its runner had ended. Raises Superseded."""
        await self._link.write("abandon", self._link.parts.runs.abandon, run)

    async def add_events(self, run: Run, batches: Sequence[EventBatch]) -> None:
        """Raises Superseded."""
        await self._link.write("add_events", self._link.parts.runs.add_events, run, batches)

    async def finish_run(
        self, run: Run, ending: Ending, *, conversation_end: int | None, batches: Sequence[EventBatch]
    ) -> None:
        """Ends a run with its last events; appends to its conversation as `finish` does. `conversation_end` is that of
        the history that it was generated from. Raises Superseded."""
        async with self._link.stowing() as stowage:
            stowed = await stowage.ending(ending)
            finish = partial(self._link.parts.runs.finish_run, conversation_end=conversation_end, batches=batches)
            await self._link.write("finish_run", finish, run, stowed)

    async def progress(self, owner: str, id: str, attempt: int, number: int) -> Progress:
        """`attempt` and `number` are those of the last batch that the caller has; (0, -1) before the first one.
        There may be more batches than those returned, unless there are none. The response has no output.

        Raises ResponseNotFound.
        """
        return await self._link.read("progress", self._link.parts.runs.progress, owner, id, attempt, number)

    async def deliver(self, owner: str, id: str, attempt: int) -> bool:
        """Records that events of this attempt are sent to a client, so that it is not run again. False: it is no longer
        the current attempt."""
        return await self._link.write("deliver", self._link.parts.runs.deliver, owner, id, attempt)

    async def cancel(self, owner: str, id: str) -> StoredResponse:
        """Ends a background response as `cancelled`, unless it has ended. Raises ResponseNotFound, and InvalidRequest
        for a response that doesn't run in the background."""
        return await self._link.write("cancel", self._link.parts.runs.cancel, owner, id)

    # ---- The store itself

    async def secret(self, name: str, proposal: str) -> str:
        """The secret with this name, which all processes with this store share; `proposal` if there is none yet."""
        return await self._link.write("secret", self._link.parts.secret, name, proposal)

    async def sizes(self) -> Sizes:
        return await self._link.read("sizes", self._link.parts.sizes)
