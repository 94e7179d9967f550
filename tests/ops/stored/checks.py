"""Compares a store, after all traffic has ended, with what was announced to the clients."""

import hashlib
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from benchmarks.databases import SQLITE, Database
from openai_server.store.records import LEASE_SECONDS
from tests.ops.stored.account import Account
from tests.ops.stored.client import StoreClient
from tests.ops.stored.digest_worker import answer, prompt
from tests.ops.stored.model import CONTINUED, FINAL, Announced, Deletion, Fate, listed, problems_of_items, text_of
from tests.ops.stored.visitor import CONVERSATIONS, RESPONSES

FINAL_SECONDS = 3 * LEASE_SECONDS
"""Time until each response has ended: leases of killed processes expire before."""
EMPTY_SECONDS = 20.0
"""Time until a sidecar that has started has swept everything that was deleted."""
POLL_SECONDS = 0.2
UNFINISHED = "SELECT id, status FROM responses WHERE status IN ('queued', 'in_progress') AND deleted_at IS NULL"
NOTHING = {
    "an item is twice in a response": (
        "SELECT response_id, id FROM items WHERE response_id IS NOT NULL GROUP BY response_id, id HAVING count(*) > 1"
    ),
    "two items of a response have one place": (
        "SELECT response_id, response_position FROM items WHERE response_id IS NOT NULL "
        "GROUP BY response_id, response_position HAVING count(*) > 1"
    ),
    "two items of a conversation have one place": (
        "SELECT conversation_id, conversation_position FROM items WHERE conversation_id IS NOT NULL "
        "GROUP BY conversation_id, conversation_position HAVING count(*) > 1"
    ),
    "an item belongs to nothing": "SELECT id FROM items WHERE response_id IS NULL AND conversation_id IS NULL",
    "an item is from a response that is gone": (
        "SELECT i.id FROM items i LEFT JOIN responses r ON r.id = i.response_id "
        "WHERE i.response_id IS NOT NULL AND r.id IS NULL"
    ),
    "an item is in a conversation that is gone": (
        "SELECT i.id FROM items i LEFT JOIN conversations c ON c.id = i.conversation_id "
        "WHERE i.conversation_id IS NOT NULL AND c.id IS NULL"
    ),
    "an item has another owner than its response": (
        "SELECT i.id FROM items i JOIN responses r ON r.id = i.response_id WHERE i.owner <> r.owner"
    ),
    "an item has another owner than its conversation": (
        "SELECT i.id FROM items i JOIN conversations c ON c.id = i.conversation_id WHERE i.owner <> c.owner"
    ),
    "a conversation has items of a response that failed": (
        "SELECT i.id, r.status FROM items i JOIN responses r ON r.id = i.response_id "
        "WHERE i.conversation_id IS NOT NULL AND r.status NOT IN ('completed', 'incomplete')"
    ),
    "an item has another size": (
        "SELECT id FROM items WHERE body IS NOT NULL AND deleted_at IS NULL AND n_bytes <> length(body)"
    ),
}
"""Queries that find nothing in a sound store."""
COUNTERS = """
SELECT o.owner, o.n_responses, o.n_conversations, o.n_bytes,
  (SELECT count(*) FROM responses r WHERE r.owner = o.owner AND r.deleted_at IS NULL),
  (SELECT count(*) FROM conversations c WHERE c.owner = o.owner AND c.deleted_at IS NULL),
  (SELECT coalesce(sum(r.n_bytes), 0) FROM responses r WHERE r.owner = o.owner)
  + (SELECT coalesce(sum(c.n_bytes), 0) FROM conversations c WHERE c.owner = o.owner)
  + (SELECT coalesce(sum(i.n_bytes), 0) FROM items i WHERE i.owner = o.owner)
FROM owners o
"""
TABLES = ("responses", "conversations", "items", "events")


def eventually(condition: Callable[[], bool], seconds: float) -> bool:
    """Waits until the condition is true. Returns whether it became true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        threading.Event().wait(POLL_SECONDS)
    return True


def unfinished(database: Database) -> list[str]:
    """Problems with responses that don't end."""
    if eventually(lambda: not database.rows(UNFINISHED), FINAL_SECONDS):
        return []
    return [f"not final after {FINAL_SECONDS:.0f} s: {row}" for row in database.rows(UNFINISHED)]


def problems_of_database(database: Database) -> list[str]:
    problems = [f"{name}: {rows[:5]}" for name, query in NOTHING.items() if (rows := database.rows(query))]
    if not eventually(lambda: not _wrong_counters(database), 5):
        problems += _wrong_counters(database)
    if database.kind == SQLITE and (result := database.rows("PRAGMA integrity_check")) != [("ok",)]:
        problems.append(f"integrity: {result}")
    return problems


def _wrong_counters(database: Database) -> list[str]:
    return [
        f"counted for {owner[:8]}: {counted}, but there are {tuple(map(int, actual))}"
        for owner, *numbers in database.rows(COUNTERS)
        if (counted := tuple(map(int, numbers[:3]))) != (actual := tuple(map(int, numbers[3:])))
    ]


# ---- What clients were announced


class Checks:
    """The checks of one account, with a client that uses all sidecars. `problems` has what is wrong."""

    def __init__(self, account: Account, client: StoreClient, stranger: StoreClient) -> None:
        self._account = account
        self._client = client
        self._stranger = stranger
        self.problems: list[str] = []
        self._input: dict[str, list[str]] = {}
        """Ids of the input items of each response that is there."""

    def run(self) -> list[str]:
        for id, block in {**self._account.begun, **self._account.background}.items():
            self._check_end(id, is_queued=id in self._account.background, block=block)
        for announced in self._account.responses.values():
            self._check_response(announced)
        for conversation in self._account.conversations.values():
            path = f"{CONVERSATIONS}/{conversation.id}"
            if not self._is_there(path, conversation.deletion):
                continue
            items = [listed(item) for item in self._client.pages(f"{path}/items", 100)]
            faults = problems_of_items(conversation.blocks, items)
            self.problems += [f"{conversation.id}: {fault}" for fault in faults]
        return self.problems

    def _check_end(self, id: str, *, is_queued: bool, block: Any) -> None:
        """A response whose end was not announced has an end, and its items are in its conversation accordingly."""
        reply = self._client.send("GET", f"{RESPONSES}/{id}")
        if reply.status == 404:
            self._expect(not is_queued, f"background response {id} is lost")
            status = "gone"
        else:
            status = reply.body["status"]
            self._expect(status in FINAL, f"{id} is {status}")
            if status == "failed":
                self._expect(bool(reply.body["error"]), f"{id} failed without a reason")
        block.fate = Fate.ANNOUNCED if status in CONTINUED else Fate.REFUSED
        if status in CONTINUED:
            block.answer_id = reply.body["output"][0]["id"]

    def _check_response(self, announced: Announced) -> None:
        path = f"{RESPONSES}/{announced.id}"
        if not self._is_there(path, announced.deletion):
            return
        reply = self._client.send("GET", path)
        self._expect(reply.body == announced.body, f"announced as {announced.body}, but stored as {reply.body}")
        self._check_input(announced)

    def _check_input(self, announced: Announced) -> None:
        """The answer is the digest of the items that the store lists as input."""
        items = self._client.pages(f"{RESPONSES}/{announced.id}/input_items", 100)
        ids = [item["id"] for item in items]
        self._expect(text_of(items[-1]) == announced.text, f"input of {announced}: {items}")
        if not announced.has_lost_history:
            text = prompt([(item["role"], text_of(item)) for item in items])
            self._expect(answer(text) == announced.answer, f"{announced} was not generated from {items}")
        self._input[announced.id] = ids
        previous = announced.previous
        if previous is not None and (earlier := self._input.get(previous.id)) is not None:
            expected = [*earlier, *(item["id"] for item in previous.body["output"])]
            self._expect(ids[:-1] == expected, f"input of {announced}: {ids[:-1]}, but before it came {expected}")

    def _is_there(self, path: str, deletion: Deletion) -> bool:
        status = self._client.send("GET", path).status
        if status == 200:
            self._expect(deletion is not Deletion.ANNOUNCED, f"{path} was deleted, and is there")
            foreign = self._stranger.send("GET", path).status
            self._expect(foreign == 404, f"{path} has status {foreign} for another key")
        else:
            self._expect(status == 404, f"{path}: status {status}")
            self._expect(deletion is not Deletion.NONE, f"{path} is lost")
        return status == 200

    def _expect(self, condition: bool, problem: str) -> None:
        if not condition:
            self.problems.append(problem)


# ---- The end


def problems_of_deletion(database: Database, clients: Iterable[tuple[str, StoreClient]]) -> list[str]:
    """Deletes all that is in the store. `clients` have their keys."""
    problems: list[str] = []
    for key, client in clients:
        owner = hashlib.sha256(key.encode()).hexdigest()
        for table, path in (("responses", RESPONSES), ("conversations", CONVERSATIONS)):
            for (id,) in database.rows(f"SELECT id FROM {table} WHERE owner = '{owner}' AND deleted_at IS NULL"):
                if (reply := client.send("DELETE", f"{path}/{id}")).status != 200:
                    problems.append(f"deletion of {id}: {reply}")
    return problems


def problems_of_sweeping(database: Database) -> list[str]:
    """After everything was deleted, a sidecar that has just started must leave nothing."""
    problems: list[str] = []
    if not eventually(lambda: not any(left(database)), EMPTY_SECONDS):
        problems.append(f"rows of {TABLES} after everything was deleted: {left(database)}")
    for owner, *numbers in database.rows("SELECT owner, n_responses, n_conversations, n_bytes FROM owners"):
        if any(numbers):
            problems.append(f"counted for {owner[:8]} after everything was deleted: {numbers}")
    return problems


def left(database: Database) -> Sequence[int]:
    """Numbers of rows of TABLES."""
    return [database.rows(f"SELECT count(*) FROM {table}")[0][0] for table in TABLES]
