/* The slots of one host: who may have a connection, judged by the host's own count.
 *
 * Words, states and transitions are those of docs/fleet.md and workers/fleet/lua; docs/fleet-model.md says what this
 * model covers and what it found. `make model` runs it.
 *
 * Everything is one process with one loop: each turn is one event that is atomic in the real fleet too (a Lua script,
 * a socket call, a moment at the host), so every order of events is tried. Time is a tick; an event takes none.
 *
 * A pause is not a state. A worker that should have cut its connection and did not when time passes was paused, or its
 * whole machine was. What it does next shows that it has woken. So every length of a pause at every point is covered,
 * and a machine that lost its power is one that never wakes: the host keeps that connection for ever.
 */

/* -- constants, in ticks: as small as keeps the order of the real ones (workers/fleet/timing.py: 5 < 20 <= 30 ...) */
#ifndef CAP
#define CAP 1 /* slots of the host, which rejects connection CAP + 1 */
#endif
#ifndef WORKERS
#define WORKERS (CAP + 1) /* one more than slots: a paused one, and enough others to fill the host */
#endif
#ifndef MESSAGES
#define MESSAGES (CAP + 1) /* grants on the queue at a time, so that an old one can meet a new one */
#endif
#ifndef CUT_AFTER
#define CUT_AFTER 1 /* F */
#endif
#define LEASE 2 /* L */
#define GRANT 1
#define LATE 2 /* the host counts a connection for less than so many ticks after its end ... */
#define LATE_CLEAN 1 /* ... and for less than so many after one that ended by the protocol */
#ifndef QUARANTINE_TIME
#define QUARANTINE_TIME LATE /* Q */
#endif
#ifndef LINGER
#define LINGER LATE_CLEAN
#endif
#ifndef BARRIER
#define BARRIER (LEASE + LATE) /* B */
#endif

#define NOTHING 255

/* -- the ledger. `left` counts down to the end of the slot's state; 0: it has expired.
 * `before`: what the slot was when the reconciler was asked for, and still is. `seen`: its holder has had its connection
 * (opened, take or commit said so, not a renewal). */
#define FREE 0
#define GRANTED 1
#define OPENING 2
#define HELD 3
#define QUARANTINE 4
#define SINCE_BEFORE 1 /* HELD and seen, or in QUARANTINE */
#define RESTED_BEFORE 2 /* in QUARANTINE, and its rest was over */
typedef Slot { byte state; byte fence; byte left; byte before; bit seen }
Slot slot[CAP];
byte barrier; /* ticks left of it */

/* -- grants on the queue: hints, which may be lost, late or doubled */
typedef Message { byte slot; byte fence }
Message message[MESSAGES]; /* fence 0: no message */

/* -- worker processes. IDLE; CLAIMED: it may connect; LOOKED: it has looked at its own lease and connects now;
 * ACCEPTED: the host counts its connection; PLUGGED: and has its disk plugged; OPENED: and the ledger was told.
 * `age`: ticks since the last answered renewal was sent. */
#define IDLE 0
#define CLAIMED 1
#define LOOKED 2
#define ACCEPTED 3
#define PLUGGED 4
#define OPENED 5
typedef Worker { byte at; byte slot; byte fence; byte age }
Worker worker[WORKERS];
#define OLDEST (CUT_AFTER > LEASE -> CUT_AFTER : LEASE)

/* -- the host: connections whose client ended and which it still counts, by the ticks that this may still last,
 * apart by whether their disk is still plugged (the only ones that XAPI can show). */
byte closing[LATE];
byte closing_plugged[LATE];

/* -- the reconciler. 0: none, 1: asked, 2: the plugged disks were listed */
byte count;
byte plugged;
bit asked_late; /* it was asked for after the barrier's end */
bit counted; /* since the last barrier's end */
byte unaccounted;

#ifdef RESTARTS
byte restarts;
#endif
bit calm; /* faults have stopped, and every worker has ended */
byte quiet; /* ticks since */
bit calm_counted;

byte i, n, chosen, used, connections, held, excess, resting;
byte yes;

/* What an order cannot matter for is put in order, so that states which mean the same are one state: workers and
 * messages are sorted, and of fences only the order is kept. Live fences of a slot become 2, 4, 6 ...; a slot's own
 * fence is odd when no live grant has it. So the number of grants is not bounded. */
c_decl {
\#include <string.h>
	extern int readtrail;
	static int name_of[8] = { 0, 1, 2, 3, 4, 5, 6, 7 }; /* of workers, for the replay of a counterexample */
	static int name_of_slot = 0; /* of slot 0 */
}
c_code {
	static void swap_workers(int a, int b)
	{
		uchar keep[sizeof(now.worker[0])];
		int name = name_of[a];
		memcpy(keep, &now.worker[a], sizeof keep);
		memcpy(&now.worker[a], &now.worker[b], sizeof keep);
		memcpy(&now.worker[b], keep, sizeof keep);
		if (readtrail) { name_of[a] = name_of[b]; name_of[b] = name; }
	}
	static int worker_key(int w)
	{
		return ((now.worker[w].at * 8 + now.worker[w].slot) * 64 + now.worker[w].fence) * 16 + now.worker[w].age;
	}
	static int slot_key(int s)
	{
		return ((now.slot[s].state * 8 + now.slot[s].left) * 4 + now.slot[s].before) * 2 + now.slot[s].seen;
	}
	static void settle(void)
	{
		int s, w, m, v, live[64], rank[64], next;
#ifndef CONFIRMED
		for (s = 0; s < CAP; s++) now.slot[s].seen = now.slot[s].before = 0;
#endif
		for (s = 0; s < CAP; s++)
			if (now.slot[s].state == QUARANTINE && !now.slot[s].left && now.slot[s].before != SINCE_BEFORE) now.slot[s].seen = 0;
#if CAP == 2
		if (slot_key(0) < slot_key(1)) {
			uchar keep[sizeof(now.slot[0])];
			memcpy(keep, &now.slot[0], sizeof keep);
			memcpy(&now.slot[0], &now.slot[1], sizeof keep);
			memcpy(&now.slot[1], keep, sizeof keep);
			for (w = 0; w < WORKERS; w++) if (now.worker[w].at) now.worker[w].slot = 1 - now.worker[w].slot;
			for (m = 0; m < MESSAGES; m++) if (now.message[m].fence) now.message[m].slot = 1 - now.message[m].slot;
			if (readtrail) name_of_slot = 1 - name_of_slot;
		}
#endif
		for (w = 0; w < WORKERS; w++)
			for (v = 0; v + 1 < WORKERS - w; v++)
				if (worker_key(v) < worker_key(v + 1)) swap_workers(v, v + 1);
		for (s = 0; s < CAP; s++) {
			memset(live, 0, sizeof live);
			for (w = 0; w < WORKERS; w++)
				if (now.worker[w].at && now.worker[w].slot == s) live[now.worker[w].fence] = 1;
			for (m = 0; m < MESSAGES; m++)
				if (now.message[m].fence && now.message[m].slot == s) live[now.message[m].fence] = 1;
			for (v = 0, next = 0; v < 64; v++) { if (live[v]) next += 2; rank[v] = live[v] ? next : next + 1; }
			for (w = 0; w < WORKERS; w++)
				if (now.worker[w].at && now.worker[w].slot == s) now.worker[w].fence = rank[now.worker[w].fence];
			for (m = 0; m < MESSAGES; m++)
				if (now.message[m].fence && now.message[m].slot == s) now.message[m].fence = rank[now.message[m].fence];
			now.slot[s].fence = rank[now.slot[s].fence];
		}
		for (w = 0; w < WORKERS; w++)
			for (v = 0; v + 1 < WORKERS - w; v++)
				if (worker_key(v) < worker_key(v + 1)) swap_workers(v, v + 1);
		for (m = 0; m < MESSAGES; m++)
			for (v = 0; v + 1 < MESSAGES - m; v++)
				if (now.message[v].fence * 8 + now.message[v].slot < now.message[v + 1].fence * 8 + now.message[v + 1].slot) {
					uchar f = now.message[v].fence, p = now.message[v].slot;
					now.message[v].fence = now.message[v + 1].fence; now.message[v].slot = now.message[v + 1].slot;
					now.message[v + 1].fence = f; now.message[v + 1].slot = p;
				}
		now.i = now.n = now.chosen = now.used = now.connections = now.held = now.excess = now.resting = now.yes = 0;
	}
	static const char *slot_state[] = { "FREE", "GRANTED", "OPENING", "HELD", "QUARANTINE" };
	static const char *place[] = { "idle", "claimed", "looked", "accepted", "plugged", "opened" };
	static void say(const char *what, int w)
	{
		int s, v;
		if (!readtrail) return;
		printf("  %-34s", what);
		if (w >= 0) printf(" worker %c, slot %d", 'A' + name_of[w], name_of_slot ^ now.worker[w].slot);
		else printf("                 ");
		printf(" |");
		for (s = 0; s < CAP; s++) {
			v = CAP == 2 ? s ^ name_of_slot : s;
			printf(" %s/%d f%d%s%s", slot_state[now.slot[v].state], now.slot[v].left, now.slot[v].fence, now.slot[v].seen ? "+" : "", now.slot[v].before == RESTED_BEFORE ? "**" : now.slot[v].before ? "*" : "");
		}
		printf(" |");
		for (s = 0; s < WORKERS; s++)
			if (now.worker[s].at) printf(" %c:%s@%d f%d age %d", 'A' + name_of[s], place[now.worker[s].at], name_of_slot ^ now.worker[s].slot, now.worker[s].fence, now.worker[s].age);
		printf(" | barrier %d count %d plugged %d counted %d unaccounted %d\n", now.barrier, now.count, now.plugged, now.counted, now.unaccounted);
	}
}
#define SAY(what) c_code { say(what, -1); }
#define SAY_W(what) c_code { say(what, now.n); }

inline move(which, next_state, for_ticks)
{
	slot[which].state = next_state;
	slot[which].left = for_ticks;
	slot[which].before = 0;
	slot[which].seen = slot[which].seen && next_state == QUARANTINE
}

/* Sets `connections`: what the host counts. */
inline count_connections()
{
	d_step {
		connections = 0;
		for (i : 0 .. WORKERS - 1) { connections = connections + (worker[i].at >= ACCEPTED -> 1 : 0) }
		for (i : 0 .. LATE - 1) { connections = connections + closing[i] + closing_plugged[i] }
	}
}

/* The ledger's answer to worker n: `yes` when it holds its slot. The table above `own` in prelude/slot.lua.
 * `connected`: the call shows that the caller has its connection (opened, take, commit), a renewal does not. */
inline own(w, connected)
{
	d_step {
		yes = 0;
		if
#ifdef NO_FENCE
		:: slot[worker[w].slot].state == OPENING || slot[worker[w].slot].state == HELD -> yes = 1
#endif
		:: else ->
			if
			:: slot[worker[w].slot].fence == worker[w].fence &&
				(slot[worker[w].slot].state == OPENING || slot[worker[w].slot].state == HELD) -> yes = 1
			:: slot[worker[w].slot].fence == worker[w].fence && slot[worker[w].slot].state == GRANTED && barrier > 0 -> yes = 2
			:: slot[worker[w].slot].fence < worker[w].fence && barrier > 0 -> yes = 2
			:: else
			fi
		fi;
		if
		:: yes == 2 ->
#ifdef NO_REASSERTION
			skip /* told to go on, and not written down */
#elif defined(FENCE_FORGOTTEN)
			yes = 0
#else
			slot[worker[w].slot].fence = worker[w].fence;
			move(worker[w].slot, HELD, LEASE);
			slot[worker[w].slot].seen = connected;
			yes = 1
#endif
		:: yes == 1 && slot[worker[w].slot].state == HELD && connected -> slot[worker[w].slot].seen = 1
		:: else
		fi;
		/* A forgotten stream goes on: who kept its lease is not told to cut because Redis forgot. */
#ifndef ONLY_THE_CAP
		assert(!(yes == 0 && barrier > 0 && worker[w].age <= CUT_AFTER))
#endif
	}
}

/* Worker w has no connection any more; the host counts it for less than `late` ticks from now. */
inline disconnect(w, late)
{
	if
	:: worker[w].at >= PLUGGED -> closing_plugged[late - 1]++
	:: worker[w].at == ACCEPTED -> closing[late - 1]++
	:: else
	fi
}

inline forget(w) { worker[w].at = IDLE; worker[w].slot = 0; worker[w].fence = 0; worker[w].age = 0 }

/* A failed open is released too, so this is no proof of a connection. */
#ifdef RELEASE_PROVES
#define RELEASED_OPEN 1
#else
#define RELEASED_OPEN 0
#endif
inline release(w, rest)
{
	own(w, RELEASED_OPEN);
	if
	:: yes && rest == 0 -> move(worker[w].slot, FREE, 0)
	:: yes && rest > 0 -> move(worker[w].slot, QUARANTINE, rest)
	:: else
	fi
}

inline free_slots()
{
	d_step {
		used = 0; chosen = NOTHING;
		for (i : 0 .. CAP - 1) {
			if
			:: slot[i].state != FREE -> used++
			:: slot[i].state == FREE && chosen == NOTHING -> chosen = i
			:: else
			fi
		}
#ifdef CONFIRMED
		if
		:: used + unaccounted >= CAP -> chosen = NOTHING
#ifndef NO_COUNT_AFTER_BARRIER
		:: !counted -> chosen = NOTHING
#endif
		:: else
		fi
#endif
	}
}

/* A slot that a mere renewal re-asserted may have no connection yet: it must not explain another one's disk. */
#ifdef REASSERTED_COUNTS
#define KNOWN_OPEN(i) true
#else
#define KNOWN_OPEN(i) slot[i].seen
#endif
#ifdef HELD_SINCE_COUNTS
#define EXPLAINS(i) (slot[i].state == HELD)
#else
#define EXPLAINS(i) (slot[i].state == HELD && slot[i].before)
#endif
/* A slot that still rests covers a disk only if its connection had been seen, and had ended before the question: then
 * its disk is among the listed ones or the host counts it no more. Else the host may count it beside them. */
#if defined(RESTING_COVERS_LATE)
#define COVERS(i) slot[i].seen
#elif defined(RESTING_COVERS_UNOPENED)
#define COVERS(i) (slot[i].before == SINCE_BEFORE)
#else
#define COVERS(i) (slot[i].before == SINCE_BEFORE && slot[i].seen)
#endif

/* Ledger.counted */
inline report()
{
	d_step {
		held = 0; resting = 0;
		for (i : 0 .. CAP - 1) {
			if
			:: EXPLAINS(i) -> held++
			:: slot[i].state == QUARANTINE && slot[i].before != RESTED_BEFORE && COVERS(i) -> resting++
			:: else
			fi
		}
		excess = (plugged > held -> plugged - held : 0);
		n = 0
	}
	for (i : 0 .. CAP - 1) {
		if
		:: slot[i].state == QUARANTINE && slot[i].before == RESTED_BEFORE ->
			if
			:: move(i, FREE, 0) /* its snapshot is not among those plugged, or enough slots stay */
			:: n < excess -> n++
			fi
		:: else
		fi
	}
	skip;
	d_step {
		unaccounted = (excess > n + resting -> excess - n - resting : 0);
#ifndef OLD_ANSWER_BELIEVED
		if
		:: asked_late && barrier == 0 -> counted = 1
		:: else
		fi;
#else
		counted = 1;
#endif
#ifndef NO_COUNT_AFTER_BARRIER
		unaccounted = (counted -> unaccounted : 0); /* no slot is granted before it is counted anew */
#endif
		end_count()
	}
}

inline end_count()
{
	count = 0; plugged = 0; asked_late = 0;
	for (i : 0 .. CAP - 1) { slot[i].before = 0 }
}

inline list_plugged()
{
	d_step {
		plugged = 0;
		for (i : 0 .. WORKERS - 1) { plugged = plugged + (worker[i].at >= PLUGGED -> 1 : 0) }
		for (i : 0 .. LATE - 1) { plugged = plugged + closing_plugged[i] }
	}
}

inline ask()
{
	count = 1;
	asked_late = (barrier == 0);
	for (i : 0 .. CAP - 1) {
		slot[i].before = (slot[i].state == QUARANTINE && slot[i].left == 0 -> RESTED_BEFORE :
			((slot[i].state == HELD && KNOWN_OPEN(i)) || slot[i].state == QUARANTINE))
	}
}

/* Sets `yes` when the ledger would hand out a count. */
inline hosts_to_count()
{
	d_step {
		yes = (!counted || unaccounted > 0); /* not in a barrier: then no slot is granted either */
		for (i : 0 .. CAP - 1) { yes = yes || (slot[i].state == QUARANTINE && slot[i].left == 0) }
	}
}

/* Sets `chosen` to a slot that sweep would move. */
inline expired()
{
	d_step {
		chosen = NOTHING;
		for (i : 0 .. CAP - 1) {
			if
			:: slot[i].left == 0 && (slot[i].state == OPENING || slot[i].state == HELD) -> chosen = i
			:: slot[i].left == 0 && slot[i].state == GRANTED && barrier == 0 -> chosen = i
#ifndef CONFIRMED
			:: slot[i].left == 0 && slot[i].state == QUARANTINE -> chosen = i
#endif
			:: else
			fi
		}
	}
}

inline sweep()
{
	if
#ifndef NO_QUARANTINE
	:: slot[chosen].state == OPENING || slot[chosen].state == HELD -> move(chosen, QUARANTINE, QUARANTINE_TIME)
#endif
	:: else -> move(chosen, FREE, 0)
	fi
}

/* Redis restarts with the slot as it was at some earlier moment, or without it. In a slot's life the fence never falls,
 * and for one fence the states come in their order. It wakes with the longest time left in that state. */
inline roll_back(s)
{
	n = 1;
	do
	:: n < slot[s].fence -> n++
	:: break
	od;
	if
	:: skip /* nothing was lost of this slot */
	:: n < slot[s].fence -> move(s, FREE, 0); slot[s].fence = n
	:: n < slot[s].fence || slot[s].state == FREE -> move(s, QUARANTINE, QUARANTINE_TIME); slot[s].fence = n;
		if
		:: slot[s].seen = 1
		:: skip
		fi
	:: n < slot[s].fence || slot[s].state == FREE || slot[s].state > HELD ->
		move(s, HELD, LEASE); slot[s].fence = n; slot[s].seen = 1
	:: n < slot[s].fence || slot[s].state == FREE || slot[s].state > OPENING ->
		move(s, OPENING, LEASE); slot[s].fence = n
	:: n < slot[s].fence || slot[s].state == FREE || slot[s].state > GRANTED ->
		move(s, GRANTED, GRANT); slot[s].fence = n
	fi;
	slot[s].before = (count > 0 && ((slot[s].state == HELD && slot[s].seen) || slot[s].state == QUARANTINE))
}

inline die(w) { disconnect(w, LATE); forget(w) }

/* Who is overdue cuts, whatever a renewal says that was sent after the pause: a barrier may have made it come true. */
#ifdef OVERDUE_GOES_ON
#define MAY_GO_ON(w) true
#else
#define MAY_GO_ON(w) (worker[w].age <= CUT_AFTER)
#endif

inline worker_event()
{
	if
#ifdef NO_LOOK
	:: worker[n].at == CLAIMED ->
#else
	:: worker[n].at == CLAIMED && worker[n].age <= CUT_AFTER ->
#endif
		 worker[n].at = LOOKED; SAY_W("looks at its lease")
	:: worker[n].at == LOOKED ->
		count_connections();
		worker[n].at = ACCEPTED; SAY_W("connects");
		assert(connections < CAP)
	:: worker[n].at == ACCEPTED -> worker[n].at = PLUGGED; SAY_W("EXPORT_NAME: the disk is plugged")
	:: worker[n].at == PLUGGED ->
		own(n, 1);
		if
		:: yes ->
			worker[n].at = OPENED;
			if
			:: slot[worker[n].slot].state == OPENING -> move(worker[n].slot, HELD, LEASE); slot[worker[n].slot].seen = 1
			:: else
			fi;
			SAY_W("opened")
		:: else -> SAY_W("opened: FENCE, cuts"); die(n)
		fi
	:: worker[n].at > IDLE ->
		own(n, 0);
		if
		:: yes ->
			if
			:: yes == 1 -> slot[worker[n].slot].left = LEASE
			:: else
			fi;
			if
			:: MAY_GO_ON(n) -> worker[n].age = 0; SAY_W("renew")
			:: SAY_W("renew, its answer is lost")
			fi
		:: else -> SAY_W("renew: FENCE, cuts"); die(n)
		fi
	:: worker[n].at == OPENED ->
		own(n, 1);
		if
		:: yes == 1 -> slot[worker[n].slot].left = LEASE; SAY_W("commit")
		:: else
		fi
	:: worker[n].at == OPENED -> release(n, LINGER); SAY_W("ends CLEAN, release"); disconnect(n, LATE_CLEAN); forget(n)
	:: worker[n].at > IDLE -> release(n, QUARANTINE_TIME); SAY_W("ends otherwise, release"); die(n)
	:: worker[n].at > IDLE -> SAY_W("is killed"); die(n)
	:: else
	fi
}

inline message_event()
{
	if
	:: message[n].fence > 0 && worker[WORKERS - 1].at == IDLE ->
		yes = (barrier == 0 && slot[message[n].slot].state == GRANTED);
#ifndef CLAIM_EXPIRED
		yes = yes && slot[message[n].slot].left > 0;
#endif
#ifndef NO_FENCE
		yes = yes && slot[message[n].slot].fence == message[n].fence;
#endif
#ifdef CLAIM_TWICE
		yes = yes || (barrier == 0 && slot[message[n].slot].fence == message[n].fence &&
			(slot[message[n].slot].state == OPENING || slot[message[n].slot].state == HELD));
#endif
		if
		:: yes ->
			move(message[n].slot, OPENING, LEASE);
			worker[WORKERS - 1].at = CLAIMED;
			worker[WORKERS - 1].slot = message[n].slot;
			worker[WORKERS - 1].fence = message[n].fence;
			worker[WORKERS - 1].age = 0;
#ifndef ONLY_THE_CAP
			for (i : 0 .. WORKERS - 2) {
				assert(!(worker[i].at > IDLE && worker[i].slot == message[n].slot && worker[i].fence == message[n].fence))
			}
#endif
			if
			:: message[n].fence = 0; message[n].slot = 0; SAY("claim")
			:: SAY("claim; the message comes again")
			fi
		:: else
		fi
	:: message[n].fence > 0 -> message[n].fence = 0; message[n].slot = 0; SAY("a message is lost")
	:: else
	fi
}

inline admit()
{
	free_slots();
	if
	:: chosen != NOTHING && message[MESSAGES - 1].fence == 0 ->
		slot[chosen].fence = 60; /* the clock is part of it, so it is higher than any before */
		move(chosen, GRANTED, GRANT);
		message[MESSAGES - 1].slot = chosen;
		message[MESSAGES - 1].fence = 60;
		SAY("admit")
	:: else
	fi
}

/* Sets `yes` when time may pass. */
inline may_tick()
{
	yes = (closing[0] + closing_plugged[0] == 0);
#ifndef NO_CUT
	for (i : 0 .. WORKERS - 1) {
		if
#ifdef PAUSES
#ifndef PAUSE_BEFORE_CONNECT
		:: worker[i].at == LOOKED && worker[i].age >= CUT_AFTER -> yes = 0
#endif
#ifndef PAUSE_IN_HANDSHAKE
		:: worker[i].at == ACCEPTED && worker[i].age >= CUT_AFTER -> yes = 0
#endif
#else
		/* a short pause: it wakes, and cuts, before its lease would have run out */
		:: worker[i].at > IDLE && worker[i].age >= OLDEST -> yes = 0
#endif
		:: else
		fi
	}
#endif
	if
	:: calm ->
		expired();
		yes = yes && chosen == NOTHING;
#ifdef CONFIRMED
		n = yes;
		hosts_to_count();
		yes = n && (!yes || calm_counted)
#endif
	:: else
	fi
}

inline tick()
{
	for (i : 0 .. CAP - 1) { slot[i].left = (slot[i].left > 0 -> slot[i].left - 1 : 0) }
	for (i : 0 .. WORKERS - 1) {
		if
		:: worker[i].at > IDLE && worker[i].age < OLDEST -> worker[i].age++
		:: else
		fi
	}
	for (i : 0 .. LATE - 2) { closing[i] = closing[i + 1]; closing_plugged[i] = closing_plugged[i + 1] }
	closing[LATE - 1] = 0; closing_plugged[LATE - 1] = 0;
	barrier = (barrier > 0 -> barrier - 1 : 0);
	calm_counted = 0;
	SAY("--- tick ---")
}

active proctype fleet()
{
	for (i : 0 .. CAP - 1) { slot[i].fence = 1 }
	counted = 1; /* founded: no connection can be open */
	do
	:: atomic { !calm ->
		if
		:: n = 0
		:: n = 1
#if WORKERS > 2
		:: n = 2
#endif
		fi;
		worker_event(); c_code { settle(); } }
	:: atomic { !calm ->
		if
		:: n = 0
#if MESSAGES > 1
		:: n = 1
#endif
#if MESSAGES > 2
		:: n = 2
#endif
		fi;
		message_event(); c_code { settle(); } }
	:: atomic { !calm && barrier == 0 -> admit(); c_code { settle(); } }
	:: atomic { expired();
		if
		:: chosen != NOTHING -> sweep(); SAY("sweep")
		:: else
		fi;
		c_code { settle(); } }
	:: atomic {
		n = 0;
		do
		:: n < LATE - 1 -> n++
		:: break
		od;
		if
		:: closing[n] > 0 -> closing[n]--; SAY("the host lets a connection go")
		:: closing_plugged[n] > 0 -> closing_plugged[n]--; SAY("the host unplugs and lets go")
#ifdef UNPLUGS_FIRST
		:: closing_plugged[n] > 0 -> closing_plugged[n]--; closing[0]++; SAY("the host unplugs, and counts it for a moment")
#endif
		:: else
		fi;
		c_code { settle(); } }
#ifdef CONFIRMED
	:: atomic { !calm && count == 0 && barrier == 0 ->
		hosts_to_count();
		if
		:: yes -> ask(); SAY("count asked")
		:: else
		fi;
		c_code { settle(); } }
	:: atomic { count == 1 -> list_plugged(); count = 2; SAY("count lists the plugged disks"); c_code { settle(); } }
	:: atomic { count == 2 -> report(); SAY("count reported"); c_code { settle(); } }
	:: atomic { count > 0 -> end_count(); SAY("count never reported"); c_code { settle(); } }
	:: atomic { calm && !calm_counted && barrier == 0 ->
		ask(); list_plugged(); report();
		calm_counted = 1; SAY("a count"); c_code { settle(); } }
#endif
#ifndef NO_RESTART
#ifdef RESTARTS
	:: atomic { !calm && restarts < RESTARTS -> restarts++;
#else
	:: atomic { !calm ->
#endif
		chosen = 0;
		do
		:: chosen < CAP -> roll_back(chosen); chosen++
		:: else -> break
		od;
#ifndef NO_BARRIER
		barrier = BARRIER;
#endif
		counted = 0; asked_late = 0;
#ifndef NO_COUNT_AFTER_BARRIER
		unaccounted = 0;
#endif
		SAY("Redis restarts"); c_code { settle(); } }
#endif
	:: atomic { !(calm && quiet == LEASE + LATE) ->
		may_tick();
		if
		:: yes -> tick(); quiet = quiet + calm
		:: else
		fi;
		c_code { settle(); } }
	:: atomic { !calm ->
		for (n : 0 .. WORKERS - 1) { die(n) }
		for (n : 0 .. MESSAGES - 1) { message[n].fence = 0; message[n].slot = 0 }
		end_count();
		calm = 1; SAY("faults stop, all workers are dead"); c_code { settle(); } }
	:: atomic { calm && quiet == LEASE + LATE ->
		may_tick();
		if
		:: yes ->
			for (i : 0 .. CAP - 1) { assert(slot[i].state == FREE) }
			free_slots();
			assert(chosen == 0)
		:: else
		fi;
		c_code { settle(); } }
	od
}
