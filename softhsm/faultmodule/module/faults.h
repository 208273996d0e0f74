/* faults.h: what happens to a call on its way in and out: counted, delayed, refused. */
#ifndef RAMZBAN_FAULTS_H
#define RAMZBAN_FAULTS_H

static bool changed(uint64_t *seen, word *wanted)
{
    uint64_t now = atomic_load(wanted);
    bool result = now != *seen;
    *seen = now;
    return result;
}

/* Does what the test asked for since the last call. Of sessions and objects only the numbers are forgotten; the real
 * ones live on, out of reach, until C_Finalize, so that no other thread's call is disturbed inside the real module. */
static void obey(void)
{
    static word obeyed;
    static uint64_t seen_sessions, seen_objects, seen_login; /* guarded by tables_lock */
    if (atomic_load(&control->commands) == atomic_load(&obeyed))
        return;
    pthread_mutex_lock(&tables_lock);
    uint64_t commands = atomic_load(&control->commands);
    if (changed(&seen_sessions, &control->lose_sessions))
        for (CK_ULONG i = sessions.top; i > 0; i--)
            forget_session_locked(i);
    if (changed(&seen_objects, &control->lose_objects))
        for (CK_ULONG i = objects.top; i > 0; i--)
            forget_locked(&objects, i);
    if (changed(&seen_login, &control->lose_login))
        atomic_store(&logged_out, true);
    atomic_store(&obeyed, commands);
    pthread_mutex_unlock(&tables_lock);
}

static uint64_t microseconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
}

/* Waits in steps of at most 10 ms, so that a call held by a long delay goes on soon after the delay was shortened. */
static void wait_out(struct function *f)
{
    if (atomic_load(&f->delay_us) == 0)
        return;
    uint64_t start = microseconds(), waited = 0, delay;
    while ((delay = atomic_load(&f->delay_us)) > waited) {
        uint64_t step = delay - waited < 10000 ? delay - waited : 10000;
        nanosleep(&(struct timespec){.tv_nsec = (long)step * 1000}, NULL);
        waited = microseconds() - start;
    }
}

static uint64_t next_random(struct function *f) /* xorshift64; the test seeds it with anything but 0 */
{
    uint64_t x = atomic_load(&f->random);
    x ^= x << 13, x ^= x >> 7, x ^= x << 17;
    atomic_store(&f->random, x);
    return x;
}

/* Says with which CKR this call is to be answered (CKR_OK: with its own), and whether after the real call. */
static CK_RV choose_fault(struct function *f, bool *done)
{
    if (atomic_load(&f->code) == 0)
        return CKR_OK;
    while (atomic_exchange(&f->lock, 1))
        sched_yield();
    CK_RV code = atomic_load(&f->code);
    *done = atomic_load(&f->done);
    if (code != 0 && atomic_load(&f->skip) > 0) {
        atomic_fetch_sub(&f->skip, 1);
        code = CKR_OK;
    } else if (code != 0 && next_random(f) > atomic_load(&f->threshold)) {
        code = CKR_OK;
    } else if (code != 0) {
        atomic_fetch_add(&f->injected, 1);
        uint64_t times = atomic_load(&f->times);
        if (times != UINT64_MAX)
            atomic_store(&f->times, times - 1);
        if (times == 1)
            atomic_store(&f->code, 0);
    }
    atomic_store(&f->lock, 0);
    return code;
}

/* Counts the call in, once no C_Finalize is running: nothing may run in the real module beside it. */
static void enter_module(void)
{
    for (;;) {
        atomic_fetch_add(&in_flight, 1);
        if (!atomic_load(&finalizing))
            return;
        atomic_fetch_sub(&in_flight, 1);
        sched_yield();
    }
}

/* One call of the application on its way through the module. */
struct call {
    CK_SESSION session; /* 0 = none */
    CK_RV fault;        /* what to answer instead; CKR_OK = nothing */
};

/* Two calls in one session are the application's fault: counted, then made one after the other, since the real module
 * may crash on them. */
static void enter_session(CK_SESSION s)
{
    if (!atomic_exchange(&session_busy[s], true))
        return;
    atomic_fetch_add(&control->shared_sessions, 1);
    while (atomic_exchange(&session_busy[s], true))
        nanosleep(&(struct timespec){.tv_nsec = 100000}, NULL);
}

/* Counts the call, waits, and chooses its fault. False: answer call->fault at once, without the real function. */
static bool begin(struct call *call, int number, CK_SESSION s, bool needs_login)
{
    *call = (struct call){.session = s < MAX_HANDLES ? s : 0};
    enter_module();
    if (control == NULL || real == NULL) {
        call->session = 0;
        call->fault = CKR_CRYPTOKI_NOT_INITIALIZED;
        return false;
    }
    struct function *f = &control->functions[number];
    atomic_fetch_add(&f->calls, 1);
    if (call->session)
        enter_session(call->session);
    obey();
    wait_out(f);

    bool done = false;
    bool of_token = number != N_C_Initialize && number != N_C_Finalize && number != N_C_GetInfo && number != N_C_GetSlotList;
    if (of_token && (call->fault = atomic_load(&control->broken)) != CKR_OK)
        return false;
    if (needs_login && atomic_load(&logged_out)) {
        call->fault = CKR_USER_NOT_LOGGED_IN;
        return false;
    }
    call->fault = choose_fault(f, &done);
    return call->fault == CKR_OK || done;
}

/* Ends the call with the real function's answer, or with the fault chosen for it. */
static CK_RV end(struct call *call, CK_RV answer)
{
    if (call->session)
        atomic_store(&session_busy[call->session], false);
    atomic_fetch_sub(&in_flight, 1);
    return call->fault != CKR_OK ? call->fault : answer;
}

#endif
