import random
from array import array
from collections import Counter
from collections.abc import Iterable

import pytest

from openai_server.backends import affinity
from openai_server.backends.affinity import BLOCK, MAX_BYTES, Affinity, Prefix, hashes, margin, prefix_of
from protos import contract, tensors
from protos.contract import TensorSpec
from protos.grpc_predict_v2_pb2 import ModelInferRequest
from tests.openai_server.backends.fakes import call_of

ADDRESSES = ("10.0.0.1:8000", "10.0.0.2:8000", "10.0.0.3:8000")


def idle(*addresses: str) -> dict[str, int]:
    return dict.fromkeys(addresses or ADDRESSES, 0)


def text(seed: object, blocks: float = 4) -> bytes:
    return random.Random(str(seed)).randbytes(int(blocks * BLOCK))


def conversations(n: int, system: bytes = b"") -> list[bytes]:
    return [system + text(number) for number in range(n)]


def places(table: Affinity, prompts: Iterable[bytes], running: dict[str, int]) -> list[str]:
    return [table.choose(hashes(prompt), running) for prompt in prompts]


# ---- Hashes of a prompt


def prefix(request: ModelInferRequest, prompt_input: str = "") -> Prefix:
    """Returns the prefix of a call with this request. By default, its last input has the prompt."""
    call = call_of(request)
    call.prompt_input = prompt_input or (request.inputs[-1].name if request.inputs else "prompt")
    return prefix_of(call)


def test_a_longer_prompt_has_the_hashes_of_its_beginning() -> None:
    whole = text("a", 100)
    for n in range(0, len(whole), 97):
        assert hashes(whole)[: len(hashes(whole[:n]))] == hashes(whole[:n])


def test_every_hash_depends_on_all_bytes_before() -> None:
    prompt = text("a", 8)
    changed = bytes([prompt[0] ^ 1]) + prompt[1:]
    assert not set(hashes(prompt)) & set(hashes(changed))


def test_models_have_hashes_of_their_own() -> None:
    prompt = text("a")
    here, there = request(contract.PROMPT, [prompt]), request(contract.PROMPT, [prompt])
    there.model_name = "another"
    assert not set(prefix(here)) & set(prefix(there))
    assert prefix(there) == hashes(prompt, "another")


def test_an_incomplete_block_is_left_out() -> None:
    assert hashes(b"x" * (BLOCK - 1)) == ()
    assert len(hashes(b"x" * BLOCK)) == len(hashes(b"x" * (2 * BLOCK - 1))) == 1
    assert len(hashes(b"x" * (2 * BLOCK))) == 2


def test_a_long_prompt_has_few_blocks_and_only_its_beginning_is_hashed() -> None:
    prompt = text("long", 2 * MAX_BYTES // BLOCK)
    assert 64 < len(hashes(prompt)) < 100
    assert hashes(prompt) == hashes(prompt[:MAX_BYTES])


def request(spec: TensorSpec, elements: tensors.Elements | tensors.Packed) -> ModelInferRequest:
    message = ModelInferRequest()
    tensors.add_input(message, contract.MAX_TOKENS, (3,))
    tensors.add_input(message, spec, elements)
    return message


def test_a_prompt_is_text_or_token_ids() -> None:
    ids = list(range(1000))
    assert prefix(request(contract.PROMPT, [text("a")])) == hashes(text("a"))
    expected = hashes(array("i", ids).tobytes())
    assert len(expected) == 15
    assert prefix(request(contract.PROMPT_TOKEN_IDS, ids)) == expected
    assert prefix(request(contract.PROMPT_TOKEN_IDS, tensors.packed("INT32", ids))) == expected


@pytest.mark.parametrize("elements", [[], [b""], [b"Hi"]])
def test_a_short_prompt_has_no_prefix(elements: list[bytes]) -> None:
    assert prefix(request(contract.PROMPT, elements)) == ()


def test_a_request_without_a_prompt_has_no_prefix() -> None:
    assert prefix(ModelInferRequest()) == ()
    assert prefix(request(contract.STOP, [text("a")]), "prompt") == ()


# ---- The choice


def test_the_turns_of_a_conversation_stay_together() -> None:
    table, system = Affinity(), text("system", 12)
    prompts = conversations(60, system)
    first = places(table, prompts, idle())
    for _ in range(3):
        prompts = [prompt + text(prompt, 1.5) for prompt in prompts]
        assert places(table, prompts, idle()) == first


def test_conversations_behind_one_system_prompt_spread_over_those_that_got_it() -> None:
    table, system = Affinity(), text("system", 12)
    for address in ADDRESSES:
        table.choose(hashes(system + text(address)), {**dict.fromkeys(ADDRESSES, 9), address: 0})
    counts = Counter(places(table, conversations(600, system), idle()))
    assert all(150 < counts[address] < 250 for address in ADDRESSES)


def test_a_new_prompt_goes_to_the_least_busy() -> None:
    table = Affinity()
    for prompt in conversations(50):
        assert table.choose(hashes(prompt), {"a": 1, "b": 0, "c": 2}) == "b"


def test_new_prompts_spread_over_equals() -> None:
    counts = Counter(places(Affinity(), conversations(600), idle()))
    assert all(150 < counts[address] < 250 for address in ADDRESSES)


def test_sidecars_agree_without_talking() -> None:
    """Also if one of them has seen other conversations behind the same system prompt, and lists the addresses in
    another order."""
    system = text("system", 12)
    here, there = Affinity(), Affinity()
    for table, seed in ((here, "here"), (there, "there")):
        for number in range(30):
            busy = {address: random.Random(f"{seed} {number} {address}").randrange(9) for address in ADDRESSES}
            table.choose(hashes(system + text(f"{seed} {number}")), busy)
    prompts = conversations(100, system)
    expected = places(here, prompts, idle())
    assert places(there, [prompt + text(prompt) for prompt in prompts], idle(*ADDRESSES[::-1])) == expected


def test_a_preferred_address_is_given_up_when_it_is_busier_by_more_than_the_margin() -> None:
    table, prompt = Affinity(), text("a")
    for least in (0, 3, 4, 40):
        table = Affinity()
        [holder] = places(table, [prompt], idle())
        [other, another] = [address for address in ADDRESSES if address != holder]
        at_the_limit = {holder: least + margin(least), other: least, another: least + 1}
        assert table.choose(hashes(prompt), at_the_limit) == holder
        over = {**at_the_limit, holder: least + margin(least) + 1}
        assert table.choose(hashes(prompt), over) == other


def test_a_conversation_stays_where_it_has_moved() -> None:
    table, prompt = Affinity(), text("a")
    [holder] = places(table, [prompt], idle())
    moved = table.choose(hashes(prompt + text("b")), {**idle(), holder: 9})
    assert moved != holder
    assert table.choose(hashes(prompt + text("b") + text("c")), idle()) == moved


def test_an_address_that_leaves_moves_only_its_own_conversations() -> None:
    table, prompts = Affinity(), conversations(300)
    before = places(table, prompts, idle())
    left, *others = ADDRESSES
    after = places(table, prompts, idle(*others))
    assert {old for old, new in zip(before, after, strict=True) if old != new} == {left}
    assert left not in after
    moved = Counter(new for old, new in zip(before, after, strict=True) if old == left)
    assert min(moved[address] for address in others) > 20


def test_an_address_that_joins_takes_its_share_of_new_conversations_only() -> None:
    table, prompts = Affinity(), conversations(300)
    *some, joined = ADDRESSES
    before = places(table, prompts, idle(*some))
    assert places(table, prompts, idle()) == before
    fresh = places(Affinity(), prompts, idle())
    assert {new for old, new in zip(before, fresh, strict=True) if old != new} == {joined}
    assert 60 < fresh.count(joined) < 140


def test_a_load_of_one_hot_prefix_stays_balanced() -> None:
    """Requests arrive and end in random order, all with the same prefix."""
    table, hot, random_ = Affinity(), text("hot", 20), random.Random(1)
    running, ended = idle(), Counter[str]()
    for number in range(2000):
        if sum(running.values()) >= 30:
            address = random_.choices(list(running), list(running.values()))[0]
            running[address] -= 1
            ended[address] += 1
        least = min(running.values())
        chosen = table.choose(hashes(hot + text(number, 1)), running)
        assert running[chosen] <= least + margin(least)
        running[chosen] += 1
    assert min(ended.values()) > 0.8 * max(ended.values())


# ---- Limits on memory


def test_the_least_recently_used_blocks_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(affinity, "MAX_BLOCKS", 40)
    table, kept = Affinity(), text("kept")
    busy = {**idle(), ADDRESSES[0]: -1}
    assert table.choose(hashes(kept), busy) == ADDRESSES[0]
    for number in range(100):
        table.choose(hashes(text(number)), idle())
        assert table.choose(hashes(kept), {**idle(), ADDRESSES[0]: 1}) == ADDRESSES[0]
        assert len(table._holders) <= 40


def test_the_beginning_of_a_prefix_is_dropped_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(affinity, "MAX_BLOCKS", 3)
    table, prompt = Affinity(), text("a", 5)
    table.choose(hashes(prompt), idle())
    assert set(table._holders) == set(hashes(prompt)[:3])


def test_few_addresses_are_remembered_for_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(affinity, "MAX_HOLDERS", 4)
    table, prompt = Affinity(), text("a", 1)
    for number in range(50):
        assert table.choose(hashes(prompt), {f"pod {number}": 0, "another": 1}) == f"pod {number}"
    assert list(table._holders.values()) == [("pod 46", "pod 47", "pod 48", "pod 49")]
