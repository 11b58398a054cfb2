"""The host tier: its records, the order in which components leave, and the instructions that the plan turns into."""

from __future__ import annotations

from collections.abc import Collection, Container, Iterable, Mapping

from . import host_plan as planning
from .component import Component, Policy, Tier
from .component_state import ComponentState, TierState
from .events import HostObserved, RatesMeasured, Taken
from .eviction_order import Rank, Ranking, rank
from .host_looks import HostLooks
from .instructions import Cancel, Evict, Instruction, Prefetch
from .last_plan import LastPlan
from .moves import State
from .place import Place
from .timeline import Timeline
from .view import NOTHING, Terms

HOST = Tier.HOST  # as in component_state: asking the enum takes ten times as long
# Without rates a component that others would have to leave for comes in so many parts: room is given away no earlier than it must be.
UNKNOWN_PARTS = 16
FINEST_PARTS = 64


class HostTier:
    """The records of the host tier, their order of leaving, and the place on the timeline. Every change goes through here."""

    def __init__(self, limit_bytes: int) -> None:
        self.state = TierState(Tier.HOST, limit_bytes)
        self._looks = HostLooks()
        self.place = Place()
        self.rates: RatesMeasured | None = None
        self.terms = Terms(before_free=self._before_free)
        self._last = LastPlan()
        self._ranking = Ranking()
        self._ranks: dict[str, Rank] = {}  # by the order alone, for as long as the next read is ahead

    @property
    def changed(self) -> bool:
        """Whether something that a plan goes by is another since the last one."""
        return self._last.changed

    @property
    def components(self) -> dict[str, Component]:
        """Those that may be used, by key, their bytes in the order that the host has seen."""
        return self._looks.components

    # --- events ---

    def begin(self, place: Place, policies: Mapping[str, Policy] | None = None) -> None:
        """Another order: every rank is new."""
        self.place = place
        if policies is not None:
            self.terms.policies = policies
        self._last.void()
        self._ranking.clear()
        self._ranks.clear()
        for record in self.state.records.values():
            if record.held_bytes:
                self._rank(record)

    def new_prompt(self, components: Mapping[str, Component], elsewhere: Container[str]) -> None:
        """Its components, and those of earlier prompts of which something is there or on its way, here or `elsewhere`. Refusals are
        forgotten."""
        records = self.state.records

        def stays(key: str) -> bool:
            record = records.get(key, NOTHING)
            return key in elsewhere or bool(record.held_bytes or record.coming_bytes)

        self._apply_look(self._looks.new_prompt(components, stays))
        self.state.renew(self.components)

    def know(self, components: Mapping[str, Component]) -> None:
        """These may be used. The order of bytes that the host has seen of one stands, and its last look holds for new ones."""
        self._apply_look(self._looks.know(components))

    def pass_by(self, keys: Iterable[str]) -> bool:
        """A visit that reads these has begun: their next read is a later one. No plan has made room yet for bytes that it reads itself.
        Returns whether the last plan holds for the visit, if it begins when it was expected to."""
        records, is_planned = self.state.records, not (self._last.changed or self.terms.copies)
        for key in keys:
            record = records.get(key, NOTHING)
            if record.held_bytes:
                self._rank(record)
            if self._lacks(record, key):
                self._missing_again(key)
                is_planned = False
        return is_planned

    def landed(self, key: str, present_bytes: int) -> None:
        """A transfer has ended, or somebody has read the component unasked."""
        record, used_bytes = self.state.of(key), self.state.budget.used_bytes
        self.state.landed(key, self._of_the_rest(record, present_bytes))
        self._settled(record, used_bytes)

    def stopped(self, key: str, present_bytes: int, reason: str) -> None:
        """A transfer was refused, has failed or was stopped."""
        record, used_bytes = self.state.of(key), self.state.budget.used_bytes
        self.state.stopped(key, self._of_the_rest(record, present_bytes), reason)
        self._settled(record, used_bytes)

    def _of_the_rest(self, record: ComponentState, present_bytes: int) -> int:
        """A transfer counts from the end of the bytes that the process held when it was announced. Those that the process has taken since
        then are no part of the rest: counted as such, they would stand for bytes that have not been read yet."""
        self._looks.answered(record.key)
        component = self.components.get(record.key)
        if component is None or (not record.loaded_bytes and 0 <= present_bytes <= component.size_bytes):
            return present_bytes
        taken_bytes = max(0, record.loaded_bytes - record.behind_bytes) if record.coming_bytes else 0
        return max(0, min(present_bytes - taken_bytes, component.size_bytes - record.loaded_bytes))

    def left(self, key: str, reason: str) -> None:
        """The mover has answered an eviction: bytes that it could not give back are no longer ours to count on."""
        record, used_bytes = self.state.of(key), self.state.budget.used_bytes
        self._looks.answered(key)
        last = record.answers_due == 1
        self.state.left(key, record.stays_bytes if last else record.held_bytes, reason)
        if last and record.coming_bytes and self._lacks(record, key):
            self._missing_again(key)  # plans have passed it over meanwhile
        elif last and not record.coming_bytes:
            self._settled(record, used_bytes)

    def observe(self, seen: HostObserved) -> None:
        """Bytes by component as the host has found them, in place of its look before, except for those on their way or leaving."""
        state = self.state
        for key, record in state.records.items():
            if record.loaded_bytes and seen.loaded.get(key, 0) < record.loaded_bytes:
                self._missing_again(key)
        state.owned(seen.loaded, seen.surplus)
        self._looks.looked(seen)
        self.terms.copies = seen.copies
        self._last.doubt()
        self._apply_look(dict.fromkeys((*(seen.held or ()), *state.records)))

    def took(self, taken: Taken) -> None:
        """The process holds more of these for itself. What it has taken was behind the bytes that it held before: of the page cache's, as
        far as there were any. Of a component on its way that is reckoned when it lands."""
        for key, loaded_bytes in taken.loaded.items():
            record = self.state.records.get(key, NOTHING)
            more_bytes = loaded_bytes - record.loaded_bytes
            if more_bytes <= 0 or key not in self.components:
                continue
            component = taken.laid_out.get(key)
            if component is not None:
                self._looks.laid_out(component)
            self.state.took(key, more_bytes)
            held_bytes = record.held_bytes if record.coming_bytes else record.held_bytes - more_bytes
            self._see(key, max(0, min(held_bytes, self.wanted_bytes(key))), "the process has taken it")
            self._last.doubt()

    def let_go(self, key: str, outside_bytes: int) -> None:
        """The node that has computed with it has ended, and so many bytes of its end do not stay in the process: their copies in the page
        cache are no second ones any more. One that has ended with a look has told that already."""
        record = self.state.records.get(key, NOTHING)
        if not outside_bytes or key not in self.components:
            return
        gone_bytes = record.loaded_bytes - max(0, self.components[key].size_bytes - outside_bytes)
        if gone_bytes > 0 and not (record.coming_bytes or record.answers_due):
            held_bytes = record.held_bytes + self.state.let_go(key, gone_bytes)
            self._missing_again(key)
            self._last.doubt()
            self._see(key, min(held_bytes, self.wanted_bytes(key)), "the process does not keep it")

    def _apply_look(self, keys: Iterable[str]) -> None:
        for key in keys:
            if key in self.components:
                held_bytes = self._looks.held_bytes(key, self.state.records.get(key, NOTHING))
                self._see(key, min(held_bytes, self.wanted_bytes(key)), "the host has looked")

    def node_has_read(self, key: str) -> None:
        """A node has read the component itself: it is there, as far as there was room."""
        record = self.state.records.get(key, NOTHING)
        if not self._lacks(record, key) or record.coming_bytes or record.answers_due:
            return
        wanted_bytes = self.wanted_bytes(key)
        if record.held_bytes < wanted_bytes:
            held_bytes = min(wanted_bytes, record.held_bytes + max(0, self.state.budget.available_bytes))
            used_bytes = self.state.budget.used_bytes
            self._settled(self.state.seen(key, held_bytes, "a node has read it"), used_bytes)

    def forget(self) -> None:
        """Between prompts the system may drop pages behind our back: the contents are asked again, which costs the mover a probe."""
        for key, record in list(self.state.records.items()):
            kept = self.terms.policies.get(key)
            if record.held_bytes and not record.coming_bytes and not (kept is not None and kept.keep):
                self._see(key, 0, "nobody looks between two prompts")

    def _see(self, key: str, held_bytes: int, why: str) -> None:
        used_bytes = self.state.budget.used_bytes
        if held_bytes != self.state.records.get(key, NOTHING).held_bytes:
            self._settled(self.state.seen(key, held_bytes, why), used_bytes)

    def _settled(self, record: ComponentState, used_bytes: int) -> None:
        """Bring the order of leaving in line with the record's held bytes; `used_bytes`: of the tier before they changed."""
        key = record.key
        if record.held_bytes:
            self._rank(record)
        else:
            self._ranking.drop(key)
        component = self.components.get(key)
        if component is not None and record.held_bytes + record.loaded_bytes < component.size_bytes:
            self._missing_again(key)
            self._last.changed = True
        elif self.state.budget.used_bytes != used_bytes:
            self._last.changed = True

    def wanted_bytes(self, key: str) -> int:
        """Bytes of the component that the tier has to hold: all that the process does not hold for itself."""
        return max(0, self.components[key].size_bytes - self.state.records.get(key, NOTHING).loaded_bytes)

    def validate(self) -> None:
        """Hold the records, and the order of leaving, against their sources. Raises AssertionError."""
        self.state.validate()
        held = {key: record for key, record in self.state.records.items() if record.held_bytes}
        for key, record in held.items():
            found = rank(key, self.place.timeline, self.place.position, self.components, self.terms.policies)
            if record.asked is not None:
                found = found.asked_for()
            assert self._ranking.rank_of(key) == found, f"{key} is ranked {self._ranking.rank_of(key)}, its next read says {found}"
        assert len(self._ranking) == len(held), f"ranked: {len(self._ranking)}, held: {sorted(held)}"
        until, place = self._last.whole_until, self.place
        if until is not None and not self._last.waiting:
            for use in place.timeline.reads[place.timeline.first_read_number(place.position if place.running else place.position + 1) :]:
                record = self.state.records.get(use.component, NOTHING)
                lacks = use.position < until and record.may_come and self._lacks(record, use.component)
                assert not lacks, f"{use.component} is missing at {use.position}, and nothing was said to be until {until}"

    def set_limit(self, limit_bytes: int, reserve_bytes: int) -> None:
        """The tier's limit, and the bytes beyond it that are kept free for others; a negative limit: they have taken of those."""
        self.state.budget.limit_bytes = max(0, limit_bytes)
        self.terms.reserve_bytes = reserve_bytes + min(0, limit_bytes)
        self._last.doubt()

    # --- instructions ---

    def _lacks(self, record: ComponentState, key: str) -> bool:
        """Whether bytes of the component are neither there nor coming."""
        component = self.components.get(key)
        return component is not None and record.held_bytes + record.coming_bytes + record.loaded_bytes < component.size_bytes

    def replan(self, busy: Collection[str]) -> list[Instruction]:
        """The instructions that a new plan gives; `busy` components do not leave."""
        place, state, last = self.place, self.state, self._last
        last.changed = False
        if self._is_stuck(busy):
            return []
        last.waiting = []
        nothing_missing = last.complete_reads >= len(place.timeline.reads) and not place.timeline.expected_reads
        if nothing_missing and state.budget.available_bytes >= 0 and not (state.surplus or state.asked):
            return []
        decided = planning.plan(
            place.timeline,
            place.position,
            self.components,
            state,
            {*busy, *state.leaving} if state.leaving else busy,
            running=place.running,
            terms=self.terms,
            leave_order=self._ranking.first_to_leave(),
            complete_reads=last.complete_reads,
        )
        last.found(decided.complete_reads, decided.whole_until, decided.prefetches)
        instructions: list[Instruction] = []
        for move in decided.cancels:
            instructions += self.cancel([move.component], move.reason)
        for move in decided.surplus:
            instructions.append(self._give_surplus(move.component, move.size_bytes, move.reason))
        for move in decided.evictions:
            instructions.append(self._evict(move.component, move.size_bytes, move.reason))
        return instructions + self._announce() if last.waiting else instructions

    def _is_stuck(self, busy: Collection[str]) -> bool:
        """Whether the tier is full of components that are read before all that are missing: no plan would move anything."""
        at, state = self._last.whole_until, self.state
        if at is None or self._last.waiting or state.leaving or state.stopping_bytes or state.budget.used_bytes != state.budget.limit_bytes:
            return False
        return planning.stays(self._ranking.first_to_leave(), busy, at)

    def _announce(self) -> list[Instruction]:
        """Prefetches of the plan that find their room now; the others wait for the movers' answers, or for the next plan."""
        instructions: list[Instruction] = []
        state, budget, announced = self.state, self.state.budget, 0
        for key, size_bytes, reason in self._last.waiting:
            record = state.records.get(key, NOTHING)
            coming_bytes = size_bytes - record.held_bytes
            if coming_bytes > budget.limit_bytes - budget.used_bytes:
                break
            state.announce(key, coming_bytes, reason)
            announced += 1
            start = record.loaded_bytes
            instructions.append(Prefetch(self.components[key], HOST, start + size_bytes, reason, start))
        del self._last.waiting[:announced]
        return instructions

    def room_came(self, key: str, reason: str) -> list[Instruction] | None:
        """An eviction was answered. The prefetches that waited for it, when nothing else has happened since the plan; None: plan anew."""
        last = self._last
        as_planned = not last.changed
        self.left(key, reason)
        if not as_planned or not last.waiting or self.state.leaving:
            return None
        found = self._announce()
        if last.waiting:
            return found or None
        last.changed = False
        return found

    def cancel(self, keys: Iterable[str], reason: str) -> list[Instruction]:
        """Each transfer is told to stop once; it stays in flight, and its bytes reserved, until the mover has answered."""
        instructions: list[Instruction] = []
        for key in keys:
            if self.state.coming[key].state is State.ANNOUNCED:
                self.state.stop(key, reason)
                instructions.append(Cancel(self.components[key], Tier.HOST, reason))
        return instructions

    def cancel_unread(self, timeline: Timeline, after: int, reason: str) -> list[Instruction]:
        """Stop every transfer that no visit behind that position reads, not even one that is expected, and nobody has asked for."""
        coming = self.state.coming.values()
        unread = [one.key for one in coming if one.asked is None and timeline.missed_at(one.key, after) is None]
        return self.cancel(unread, reason)

    def cancel_overtaken(self, reason: str) -> list[Instruction]:
        """Stop every transfer of a component that is read later than one that is missing and not on its way: they begin again behind it."""
        if not self.state.coming:
            return []
        place = self.place
        return self.cancel(planning.overtaken(place.timeline, place.position, self.components, self.state, self.terms), reason)

    def _evict(self, key: str, size_bytes: int, reason: str) -> Instruction:
        """Give back the last of the component's held bytes."""
        self.state.leave(key, size_bytes, reason)
        record = self.state.records[key]
        stays_bytes = record.held_bytes - record.leaving_bytes
        return Evict(self.components[key], HOST, size_bytes, reason, record.loaded_bytes + stays_bytes if stays_bytes > 0 else 0)

    def _give_surplus(self, key: str, size_bytes: int, reason: str) -> Instruction:
        """Give back the last bytes of the second copy; the rest of it is seen at the next look."""
        stays_bytes = self.state.drop_copy(key, reason) - size_bytes
        upto_bytes = self.state.records[key].loaded_bytes
        return Evict(self.components[key], HOST, size_bytes, reason, upto_bytes - size_bytes if stays_bytes > 0 else 0, upto_bytes)

    def ask(self, key: str, reason: str) -> None:
        """The user wants it next, and nothing else in its place until this prompt is over."""
        self.state.ask(key, reason)
        self._last.doubt()
        record = self.state.records[key]
        if record.held_bytes:
            self._rank(record)

    def ask_no_more(self, keys: Iterable[str]) -> None:
        """The user wants these no longer, or the prompt that they were wanted for is over."""
        for key in keys:
            self.state.ask_no_more(key)
            record = self.state.records.get(key, NOTHING)
            if record.held_bytes:
                self._rank(record)

    def release(self, key: str, reason: str) -> list[Instruction]:
        """The user gives it up: its bytes leave, its transfer is stopped, and it is not read ahead again in this prompt."""
        self.ask_no_more([key])
        self._last.doubt()
        record = self.state.of(key)
        was = record.state
        self.state.give_up(key, reason)
        if was is State.ANNOUNCED:
            return [Cancel(self.components[key], Tier.HOST, reason)]
        if record.coming_bytes or record.answers_due or not record.held_bytes:
            return []
        return [self._evict(key, record.held_bytes, reason)]

    def _rank(self, record: ComponentState) -> None:
        key = record.key
        found = self._ranks.get(key)
        if found is None or -found.nearness <= self.place.position:
            found = rank(key, self.place.timeline, self.place.position, self.components, self.terms.policies)
            self._ranks[key] = found
        self._ranking.put(found if record.asked is None else found.asked_for())

    def _missing_again(self, key: str) -> None:
        after = self.place.position - 1 if self.place.running else self.place.position
        timeline = self.place.timeline
        number = timeline.next_read_number(key, after)
        if number is not None:
            self._last.misses(number, timeline.reads[number].position)

    def _before_free(self, key: str) -> float:
        """Bytes that the component's drive brings until the running node has ended; a fixed part of the component where that is unknown."""
        size_bytes = self.components[key].size_bytes
        rate, until_s = None if self.rates is None else self.rates.read.get(key), self.place.until_s
        if rate is None or until_s is None:
            return max(1, size_bytes // UNKNOWN_PARTS)
        return max(rate * (until_s - self.state.now_s), size_bytes // FINEST_PARTS, 1)
