"""The inner loops of the serving simulation, compiled: forming a batch, keeping a cache, moving the clock.

One request is a row of `expert` (R, T): the expert of each of its tokens. `done` tokens of it have been processed, `known` can be
(the prompt from its arrival on, then one more after each step that generates). A later token never overtakes an earlier one of
its request, so what can be taken next is the run of equal experts at `done`.
"""

from __future__ import annotations

import numpy as np
from numba import njit

FIFO, DECODE_FIRST, PREFILL_FIRST, EXPERT_AWARE = range(4)
LRU, LFU, BELADY, RANDOM = range(4)
NEVER = 1 << 30


@njit(nogil=True, cache=True)
def form(batching, expert, run_end, prompt, done, known, arrived, room, take, load, uses):
    """Form a batch: write tokens taken of each request (R,), of each expert (N,), and the experts in order; return how many experts.

    Every array written is overwritten. Nothing is taken that is not known; at most `room` tokens.
    """
    take[:arrived] = 0
    load[:] = 0
    count = 0
    if batching == EXPERT_AWARE:
        pending = np.zeros(load.size, np.int64)
        while room > 0:
            pending[:] = 0
            for r in range(arrived):
                at = done[r] + take[r]
                if at < known[r]:
                    pending[expert[r, at]] += min(run_end[r, at], known[r]) - at
            best = pending.argmax()
            if pending[best] == 0:
                break
            for r in range(arrived):
                at = done[r] + take[r]
                if room > 0 and at < known[r] and expert[r, at] == best:
                    part = min(min(run_end[r, at], known[r]) - at, room)
                    count = _use(best, part, load, uses, count)
                    take[r] += part
                    room -= part
        return count
    for turn in range(2):
        for r in range(arrived):
            decoding = done[r] >= prompt[r]
            first = batching == FIFO or decoding == (batching == DECODE_FIRST)
            if first != (turn == 0):
                continue
            while room > 0 and done[r] + take[r] < known[r]:
                at = done[r] + take[r]
                part = min(min(run_end[r, at], known[r]) - at, room)
                count = _use(expert[r, at], part, load, uses, count)
                take[r] += part
                room -= part
    return count


@njit(nogil=True, cache=True)
def _use(e, part, load, uses, count):
    """Add tokens to an expert; a new one is appended to the order of use."""
    if load[e] == 0:
        uses[count] = e
        count += 1
    load[e] += part
    return count


@njit(nogil=True, cache=True)
def plan(batching, expert, run_end, prompt, done, known, arrived, room, experts, ahead):
    """Write the experts that the batches after this one will use, as far as the queue tells; return how many are known (at most ahead.size).

    `done` is changed; what is generated meanwhile and who arrives meanwhile cannot be known.
    """
    take, load, uses = np.zeros(done.size, np.int64), np.zeros(experts, np.int64), np.zeros(experts, np.int64)
    found = 0
    while found < ahead.size:
        count = form(batching, expert, run_end, prompt, done, known, arrived, room, take, load, uses)
        if count == 0:
            break
        for i in range(min(count, ahead.size - found)):
            ahead[found] = uses[i]
            found += 1
        for r in range(arrived):
            done[r] += take[r]
    return found


@njit(nogil=True, cache=True)
def victim(policy, resident, last, uses, window, size, state):
    """Return the expert that leaves a full cache.

    Args:
        resident: (N,) bool. last: (N,) when each was used last. uses: (N,) how often so far. window: the next uses that are
        known, `size` of them. state: (1,) uint64 of the random policy.
    """
    best, best_key, best_last = -1, 0, 0
    if policy == RANDOM:
        state[0] = state[0] * np.uint64(6364136223846793005) + np.uint64(1442695040888963407)
        chosen = np.int64((state[0] >> np.uint64(33)) % np.uint64(resident.sum()))
        for e in range(resident.size):
            if resident[e]:
                if chosen == 0:
                    return e
                chosen -= 1
    for e in range(resident.size):
        if not resident[e]:
            continue
        key = 0
        if policy == LFU:
            key = -uses[e]
        elif policy == BELADY:
            key = NEVER
            for i in range(size):
                if window[i] == e:
                    key = i
                    break
        if best < 0 or key > best_key or (key == best_key and last[e] < best_last):
            best, best_key, best_last = e, key, last[e]
    return best


@njit(nogil=True, cache=True)
def at_hand(uses, count, resident, order):
    """Write the indices of the first `count` uses, those in the cache before those that are not, else in their order."""
    place = 0
    for wanted in (True, False):
        for i in range(count):
            if resident[uses[i]] == wanted:
                order[place] = i
                place += 1


@njit(nogil=True, cache=True)
def replay(expert, batch, plans, known, slots, policy, lookahead, experts, at_hand_first, seed, hit, evicted):
    """Serve a sequence of uses from a cache of `slots` experts; write hits and who left (-1: nobody).

    Args:
        expert: (U,) the experts used. batch: (U,) ascending, the batch of each use. plans: (B, P) what the queue told after each
        batch, `known` (B,) of them. lookahead: how many of the next uses Belady sees, the rest of the batch included.
        at_hand_first: within a batch, experts in the cache are used before those that must be loaded.
    """
    resident, last, uses = np.zeros(experts, np.bool_), np.zeros(experts, np.int64), np.zeros(experts, np.int64)
    window, state, held, start = np.zeros(lookahead + 1, np.int64), np.full(1, seed, np.uint64), 0, 0
    order, served = np.arange(expert.size), 0
    while start < expert.size:
        count = 1
        while start + count < expert.size and batch[start + count] == batch[start]:
            count += 1
        mine = order[:count]
        if at_hand_first:
            at_hand(expert[start : start + count], count, resident, mine)
        for i in range(count):
            t = start + mine[i]
            e = expert[t]
            hit[t], evicted[t] = resident[e], -1
            if not resident[e]:
                if held == slots:
                    size = 0
                    if policy == BELADY:
                        while size < lookahead and i + 1 + size < count:
                            window[size] = expert[start + mine[i + 1 + size]]
                            size += 1
                        j = 0
                        while size < lookahead and j < known[batch[t]]:
                            window[size] = plans[batch[t], j]
                            size += 1
                            j += 1
                    gone = victim(policy, resident, last, uses, window, size, state)
                    resident[gone], evicted[t], held = False, gone, held - 1
                resident[e], held = True, held + 1
            served += 1
            last[e] = served
            uses[e] += 1
        start += count


@njit(nogil=True, cache=True)
def hindsight(expert, slots, experts):
    """Return the most hits that any cache of `slots` experts can have on this sequence: Belady's rule with the whole future known."""
    following, upcoming = np.empty(expert.size, np.int64), np.full(experts, NEVER, np.int64)
    for t in range(expert.size - 1, -1, -1):
        following[t] = upcoming[expert[t]]
        upcoming[expert[t]] = t
    resident, nearest, held, hits = np.zeros(experts, np.bool_), np.full(experts, NEVER, np.int64), 0, 0
    for t in range(expert.size):
        e = expert[t]
        if resident[e]:
            hits += 1
        else:
            if held == slots:
                gone = -1
                for other in range(experts):
                    if resident[other] and (gone < 0 or nearest[other] > nearest[gone]):
                        gone = other
                resident[gone] = False
                held -= 1
            resident[e] = True
            held += 1
        nearest[e] = following[t]
    return hits


@njit(nogil=True, cache=True)
def hindsight_of_batches(expert, batch, slots, experts):
    """Return the most hits if each batch may use its experts in any order: of what is there or was needed, keep what is needed soonest.

    A cache may have to keep the expert that was loaded last; this bound need not.
    """
    following, upcoming = np.empty(expert.size, np.int64), np.full(experts, NEVER, np.int64)
    for t in range(expert.size - 1, -1, -1):
        following[t] = upcoming[expert[t]]
        upcoming[expert[t]] = batch[t]
    resident, nearest, hits, t = np.zeros(experts, np.bool_), np.full(experts, NEVER, np.int64), 0, 0
    while t < expert.size:
        now = batch[t]
        while t < expert.size and batch[t] == now:
            e = expert[t]
            hits += resident[e]
            resident[e] = True
            nearest[e] = following[t]
            t += 1
        while resident.sum() > slots:
            gone = -1
            for e in range(experts):
                if resident[e] and (gone < 0 or nearest[e] > nearest[gone]):
                    gone = e
            resident[gone] = False
    return hits


@njit(nogil=True, cache=True)
def between(x, xs, ys):
    """Return the piecewise linear function through (xs, ys) at x; outside, the line of the nearest two points goes on."""
    i = 1
    while i < xs.size - 1 and xs[i] < x:
        i += 1
    return ys[i - 1] + (ys[i] - ys[i - 1]) * (x - xs[i - 1]) / (xs[i] - xs[i - 1])


@njit(nogil=True, cache=True)
def simulate(
    expert, run_end, prompt, length, arrival, experts, room, batching, slots, policy, lookahead, at_hand_first, seed,
    sizes, rest_ms, expert_ms, load_ms, layers, prefetch, keep,
    start, loading, computing, total, tokens, distinct, waiting, resident_after, plans, planned,
    use_batch, use_expert, use_tokens, use_hit, use_evicted, first, finish, counts,
):  # fmt: skip
    """Serve all requests; write every batch, every use of an expert and each request's times; counts = (batches, uses).

    A batch takes `rest_ms` of its tokens, plus `expert_ms` of each expert's tokens, plus the loads of experts that the cache
    lacks. With `prefetch` the next layer's part is loaded while this layer computes; only the first layer's part is waited for.

    Args:
        keep: also write what the queue told after each batch, whatever the policy.
    """
    requests = prompt.size
    done, known = np.zeros(requests, np.int64), np.zeros(requests, np.int64)
    take, load, uses = np.zeros(requests, np.int64), np.zeros(experts, np.int64), np.zeros(experts, np.int64)
    resident, last, often = np.zeros(experts, np.bool_), np.zeros(experts, np.int64), np.zeros(experts, np.int64)
    window, state = np.zeros(lookahead + 1, np.int64), np.full(1, seed, np.uint64)
    ahead, later = np.zeros(plans.shape[1] if keep else lookahead, np.int64), np.zeros(requests, np.int64)
    order, now, arrived, finished, held, b, u = np.zeros(experts, np.int64), 0.0, 0, 0, 0, 0, 0
    while finished < requests:
        while arrived < requests and arrival[arrived] <= now:
            known[arrived] = prompt[arrived]
            arrived += 1
        count = form(batching, expert, run_end, prompt, done, known, arrived, room, take, load, uses)
        if count == 0:
            now = arrival[arrived]
            continue
        told = -1
        if keep:
            later[:] = done + take
            told = plan(batching, expert, run_end, prompt, later, known, arrived, room, experts, ahead)
            planned[b] = told
            plans[b, :told] = ahead[:told]
        if at_hand_first:
            at_hand(uses, count, resident, order)
            uses[:count] = uses[order[:count]]
        wait, work, size_of_batch = 0.0, 0.0, 0
        for i in range(count):
            e = uses[i]
            use_batch[u], use_expert[u], use_tokens[u], use_hit[u], use_evicted[u] = b, e, load[e], resident[e], -1
            if not resident[e]:
                wait += load_ms[e]
                if held == slots:
                    size = 0
                    if policy == BELADY and lookahead > 0:
                        if told < 0:
                            later[:] = done + take
                            told = plan(batching, expert, run_end, prompt, later, known, arrived, room, experts, ahead)
                        while size < lookahead and i + 1 + size < count:
                            window[size] = uses[i + 1 + size]
                            size += 1
                        j = 0
                        while size < lookahead and j < told:
                            window[size] = ahead[j]
                            size += 1
                            j += 1
                    gone = victim(policy, resident, last, often, window, size, state)
                    resident[gone], use_evicted[u], held = False, gone, held - 1
                resident[e], held = True, held + 1
            last[e] = u + 1
            often[e] += 1
            work += between(float(load[e]), sizes, expert_ms)
            size_of_batch += load[e]
            u += 1
        work += between(float(size_of_batch), sizes, rest_ms)
        each, compute = wait / layers, work / layers
        took = each + (layers - 1) * max(each, compute) + compute if prefetch else wait + work
        start[b], loading[b], computing[b], total[b], tokens[b], distinct[b] = now, wait, work, took, size_of_batch, count
        now += took
        left = 0
        for r in range(arrived):
            left += known[r] - done[r] - take[r]
            if take[r] == 0:
                continue
            done[r] += take[r]
            if done[r] >= prompt[r] and first[r] < 0:
                first[r] = now
            if done[r] == length[r]:
                finish[r] = now
                finished += 1
            elif done[r] == known[r]:
                known[r] += 1
        waiting[b] = left
        resident_after[b] = resident
        b += 1
    counts[0], counts[1] = b, u
