/* handles.h: which of the application's session and object numbers stand for which handles of the real module. */
#ifndef RAMZBAN_HANDLES_H
#define RAMZBAN_HANDLES_H

enum { MAX_HANDLES = 1 << 16 };

/* A table maps the application's numbers 1..top to real handles. real_handle is read without the lock (an unused
 * number reads 0, which every module refuses as an invalid handle); all else is guarded by tables_lock. */
struct table {
    _Atomic CK_ULONG real_handle[MAX_HANDLES];
    CK_ULONG owner[MAX_HANDLES]; /* sessions: the real slot. objects: the session whose end is theirs; 0 = none */
    CK_ULONG free[MAX_HANDLES];  /* a stack: the number freed last is given out first */
    CK_ULONG top, free_count;
};

static struct table sessions, objects;
static _Atomic bool session_busy[MAX_HANDLES];
static pthread_mutex_t tables_lock = PTHREAD_MUTEX_INITIALIZER;

static CK_ULONG real_of(struct table *t, CK_ULONG number)
{
    return number < MAX_HANDLES ? atomic_load(&t->real_handle[number]) : 0;
}

static void forget_locked(struct table *t, CK_ULONG number)
{
    if (number == 0 || real_of(t, number) == 0)
        return;
    if (t == &sessions)
        atomic_fetch_sub(&control->sessions, 1);
    else if (t->owner[number] != 0)
        atomic_fetch_sub(&control->session_objects, 1);
    atomic_store(&t->real_handle[number], 0);
    t->free[t->free_count++] = number;
}

static void forget_all_locked(struct table *t)
{
    for (CK_ULONG i = t->top; i > 0; i--)
        forget_locked(t, i);
    t->top = t->free_count = 0;
}

/* A session takes its session objects with it. */
static void forget_session_locked(CK_SESSION s)
{
    for (CK_ULONG i = 1; i <= objects.top; i++)
        if (objects.owner[i] == s)
            forget_locked(&objects, i);
    forget_locked(&sessions, s);
}

static CK_RV remember_locked(struct table *t, CK_ULONG handle, CK_ULONG owner, CK_ULONG *number)
{
    if (t->free_count > 0)
        *number = t->free[--t->free_count];
    else if (t->top + 1 < MAX_HANDLES)
        *number = ++t->top;
    else
        return CKR_HOST_MEMORY;
    t->owner[*number] = owner;
    atomic_store(&t->real_handle[*number], handle);
    if (t == &sessions)
        atomic_fetch_add(&control->sessions, 1);
    else if (owner != 0)
        atomic_fetch_add(&control->session_objects, 1);
    return CKR_OK;
}

/* An object found by a search keeps the number it has. */
static CK_RV number_of_locked(CK_OBJECT handle, CK_OBJECT *number)
{
    for (CK_ULONG i = 1; i <= objects.top; i++)
        if (real_of(&objects, i) == handle) {
            *number = i;
            return CKR_OK;
        }
    return remember_locked(&objects, handle, 0, number);
}

#define SLOT(id) ((id) - slot_shift)
#define SES(s) real_of(&sessions, s)
#define OBJ(o) real_of(&objects, o)

#endif
