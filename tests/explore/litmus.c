/*
 * The store-buffering pair of pep788.h on real threads: the last PyInterpreterGuard_Close subtracts, then looks whether
 * somebody sleeps; the finalizing thread says that it sleeps, then looks whether a guard is open. If both can miss the
 * other, a wake-up is lost. `control` does the same with a weaker order, to see that this machine can show it.
 *
 * Usage: litmus real|control SECONDS; prints rounds and lost wake-ups; exit status 1 if any was lost.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static void post(void *lock);
#define PEP788_ENGINE_ONLY
#define PEP788_INSIDE(record) ((void)(record), 0)
#define PEP788_SHARDS 1
#define PEP788_SHARD() ((size_t)0)
#define PEP788_POST(lock) post(lock)
#include "pep788.h"

#define SLOTS 1024

typedef struct {
    pep788_record record;
    pep788_coordinator coordinator;
    pep788_cell cells[2];
    pep788_word posted, sleeps;
} slot;

static slot slots[SLOTS];
static pep788_word closer_at, sleeper_at, batch;
static int control;

static void post(void *lock)
{
    pep788_store_seq_cst((pep788_word *)lock, (pep788_word)1);
}

/* One guard is open on the cell that drains. */
static void set_up(slot *s)
{
    memset(s, 0, sizeof(*s));
    s->record.shards = 1;
    s->record.pair[0] = &s->cells[0];
    s->record.pair[1] = &s->cells[1];
    s->cells[0].record = s->cells[1].record = &s->record;
    s->cells[0].word = PEP788_UNIT | PEP788_RETIRED;
    s->cells[1].word = PEP788_OPEN;
    s->record.current = (pep788_word)&s->cells[1];
    s->record.coordinator = (pep788_word)&s->coordinator;
    s->coordinator.records = &s->record;
    s->coordinator.main = (pep788_word)&s->coordinator;
    s->coordinator.phase = PEP788_PHASE_DRAIN;
    s->coordinator.wake = &s->posted;
}

static int sleeps(slot *s)
{
    if (!control) {
        return pep788_about_to_sleep(&s->coordinator, 0);
    }
    pep788_store_release(&s->coordinator.waiting, (pep788_word)1);
    return pep788_load_acquire(&s->cells[0].word) >= PEP788_UNIT;
}

/* The two meet before each slot, so that they run into it together. */
static void meet(pep788_word *mine, pep788_word *other, pep788_word at)
{
    unsigned turns = 0;
    pep788_store_seq_cst(mine, at);
    while (pep788_load_seq_cst(other) < at) {
        if (++turns > 2000) {
            sched_yield();      /* one processor, or a busy one */
        }
    }
}

static void *closer(void *unused)
{
    pep788_word at = 0, i;
    (void)unused;
    for (;;) {
        meet(&closer_at, &sleeper_at, ++at);
        if (pep788_load_seq_cst(&batch) == 0) {
            return NULL;
        }
        for (i = 0; i < SLOTS; i++) {
            meet(&closer_at, &sleeper_at, ++at);
            pep788_leave(&slots[i].cells[0]);
        }
        meet(&closer_at, &sleeper_at, ++at);
    }
}

int main(int argc, char **argv)
{
    pthread_t thread;
    pep788_word at = 0, i;
    unsigned long rounds = 0, lost = 0;
    double end = argc == 3 ? pep788_now() + atof(argv[2]) : 0.0;
    control = argc == 3 && strcmp(argv[1], "control") == 0;
    batch = 1;
    if (argc != 3 || pthread_create(&thread, NULL, closer, NULL) != 0) {
        return 2;
    }
    for (;;) {
        int more = pep788_now() < end && !(control && lost);
        for (i = 0; i < SLOTS; i++) {
            set_up(&slots[i]);
        }
        pep788_store_seq_cst(&batch, (pep788_word)more);
        meet(&sleeper_at, &closer_at, ++at);
        if (!more) {
            break;
        }
        for (i = 0; i < SLOTS; i++) {
            meet(&sleeper_at, &closer_at, ++at);
            slots[i].sleeps = (pep788_word)sleeps(&slots[i]);
        }
        meet(&sleeper_at, &closer_at, ++at);
        for (i = 0; i < SLOTS; i++) {
            rounds++;
            lost += slots[i].sleeps && !slots[i].posted;
        }
    }
    pthread_join(thread, NULL);
    printf("%lu rounds, %lu lost wake-ups\n", rounds, lost);
    return lost != 0;
}
