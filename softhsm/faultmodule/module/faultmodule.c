/* faultmodule: a PKCS#11 module that forwards every call to another module and misbehaves on request.
 *
 * It is steered through the file <path of this module>.control, which the test writes and maps (control.h).
 * Besides the faults asked for, three things are always so, because some HSMs behave like that and few tests do:
 *   - session and object handles are small numbers, and a number that becomes free goes to the very next session or
 *     object, also after C_Finalize and C_Initialize: a stale handle means another object;
 *   - slot numbers change with every C_Initialize: a token must be found by its label or serial number;
 *   - a session that two threads use at once, and a C_Finalize while calls are running, are counted; the first are
 *     serialised and the second refused, because the real module may crash on either.
 * Handles inside mechanism parameters are not translated.
 *
 * Build: cc -shared -fPIC -pthread -fvisibility=hidden -o faultmodule.so faultmodule.c */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "control.h"

static struct control *control;         /* NULL until loaded */
static struct CK_FUNCTION_LIST *real;   /* the wrapped module; NULL until loaded */
static _Atomic CK_ULONG slot_shift;     /* what this generation adds to the real slot numbers */
static _Atomic bool logged_out;         /* by lose_login, until the next C_Login */
static _Atomic long in_flight;          /* calls of the application that are inside the module */
static _Atomic bool finalizing;         /* the real C_Finalize runs, or is about to be refused */

#include "handles.h"
#include "faults.h"

/* ---- Functions forwarded as they are ---- */

#define FORWARD(name, parameters, arguments, session, needs_login) \
    static CK_RV name parameters \
    { \
        struct call call; \
        CK_RV rv = CKR_OK; \
        if (begin(&call, N_##name, session, needs_login)) \
            rv = real->name arguments; \
        return end(&call, rv); \
    }
#define DEFINE_OWN(name, parameters, arguments)
#define DEFINE_PLAIN(name, parameters, arguments) FORWARD(name, parameters, arguments, 0, false)
#define DEFINE_SESSION(name, parameters, arguments) FORWARD(name, parameters, arguments, s, false)
#define DEFINE_LOGIN(name, parameters, arguments) FORWARD(name, parameters, arguments, s, true)
#define DEFINE(kind, name, parameters, arguments) DEFINE_##kind(name, parameters, arguments)
FUNCTIONS(DEFINE)

/* ---- Life, slots and sessions ---- */

static CK_RV C_Initialize(void *args)
{
    struct call call;
    CK_RV rv = CKR_OK;
    if (begin(&call, N_C_Initialize, 0, false) && (rv = real->C_Initialize(args)) == CKR_OK) {
        atomic_store(&slot_shift, atomic_fetch_add(&control->generation, 1) + 1);
        atomic_store(&control->broken, CKR_OK);
        atomic_store(&logged_out, false);
    }
    return end(&call, rv);
}

/* Refused while other calls run: the real module may crash. */
static CK_RV C_Finalize(void *reserved)
{
    struct call call;
    CK_RV rv = CKR_OK;
    if (begin(&call, N_C_Finalize, 0, false)) {
        atomic_store(&finalizing, true);
        if (atomic_load(&in_flight) > 1) {
            atomic_fetch_add(&control->early_finalizes, 1);
            rv = CKR_GENERAL_ERROR;
        } else if ((rv = real->C_Finalize(reserved)) == CKR_OK) {
            pthread_mutex_lock(&tables_lock);
            forget_all_locked(&objects);
            forget_all_locked(&sessions);
            pthread_mutex_unlock(&tables_lock);
        }
        atomic_store(&finalizing, false);
    }
    return end(&call, rv);
}

static CK_RV C_GetSlotList(byte present, CK_SLOT *slots, CK_ULONG *count)
{
    struct call call;
    CK_RV rv = CKR_OK;
    if (begin(&call, N_C_GetSlotList, 0, false) && (rv = real->C_GetSlotList(present, slots, count)) == CKR_OK && slots)
        for (CK_ULONG i = 0; i < *count; i++)
            slots[i] += slot_shift;
    return end(&call, rv);
}

static CK_RV C_WaitForSlotEvent(CK_ULONG flags, CK_SLOT *id, void *reserved)
{
    struct call call;
    CK_RV rv = CKR_OK;
    if (begin(&call, N_C_WaitForSlotEvent, 0, false) && (rv = real->C_WaitForSlotEvent(flags, id, reserved)) == CKR_OK)
        *id += slot_shift;
    return end(&call, rv);
}

static CK_RV C_OpenSession(CK_SLOT id, CK_ULONG flags, void *app, void *notify, CK_SESSION *out)
{
    struct call call;
    CK_RV rv = CKR_OK;
    if (begin(&call, N_C_OpenSession, 0, false)) {
        uint64_t limit = atomic_load(&control->session_limit);
        CK_SESSION handle;
        if (limit != 0 && atomic_load(&control->sessions) >= limit)
            rv = CKR_SESSION_COUNT;
        else if ((rv = real->C_OpenSession(SLOT(id), flags, app, notify, &handle)) == CKR_OK) {
            pthread_mutex_lock(&tables_lock);
            rv = remember_locked(&sessions, handle, SLOT(id), out);
            pthread_mutex_unlock(&tables_lock);
        }
    }
    return end(&call, rv);
}

static CK_RV C_CloseSession(CK_SESSION s)
{
    struct call call;
    CK_RV rv = CKR_OK;
    if (begin(&call, N_C_CloseSession, s, false)) {
        CK_SESSION handle = SES(s);
        rv = real->C_CloseSession(handle);
        pthread_mutex_lock(&tables_lock);
        if (rv == CKR_OK && SES(s) == handle) /* not yet lost and given to another */
            forget_session_locked(s);
        pthread_mutex_unlock(&tables_lock);
    }
    return end(&call, rv);
}

static CK_RV C_CloseAllSessions(CK_SLOT id)
{
    struct call call;
    CK_RV rv = CKR_OK;
    if (begin(&call, N_C_CloseAllSessions, 0, false) && (rv = real->C_CloseAllSessions(SLOT(id))) == CKR_OK) {
        pthread_mutex_lock(&tables_lock);
        for (CK_ULONG i = sessions.top; i > 0; i--)
            if (sessions.owner[i] == SLOT(id))
                forget_session_locked(i);
        pthread_mutex_unlock(&tables_lock);
    }
    return end(&call, rv);
}

static CK_RV C_GetSessionInfo(CK_SESSION s, CK_SESSION_INFO *info)
{
    struct call call;
    CK_RV rv = CKR_OK;
    if (begin(&call, N_C_GetSessionInfo, s, false) && (rv = real->C_GetSessionInfo(SES(s), info)) == CKR_OK)
        info->slot += slot_shift;
    return end(&call, rv);
}

/* After lose_login the real module still holds the user logged in; the first to log in again is told that it worked. */
static CK_RV C_Login(CK_SESSION s, CK_ULONG user, IN)
{
    struct call call;
    CK_RV rv = CKR_OK;
    if (begin(&call, N_C_Login, s, false)) {
        rv = real->C_Login(SES(s), user, in, in_len);
        if ((rv == CKR_OK || rv == CKR_USER_ALREADY_LOGGED_IN) && atomic_exchange(&logged_out, false))
            rv = CKR_OK;
    }
    return end(&call, rv);
}

/* ---- Functions that make, find and destroy objects ---- */

static CK_SESSION owner_of(CK_SESSION s, TEMPLATE)
{
    for (CK_ULONG i = 0; i < n; i++)
        if (t[i].type == CKA_TOKEN && t[i].value != NULL && t[i].length == 1 && *(byte *)t[i].value)
            return 0;
    return s;
}

/* Gives the new object *out, known by its real handle, a number. */
static CK_RV adopt(CK_RV rv, CK_SESSION s, TEMPLATE, CK_OBJECT *out)
{
    if (rv != CKR_OK)
        return rv;
    pthread_mutex_lock(&tables_lock);
    rv = remember_locked(&objects, *out, owner_of(s, t, n), out);
    pthread_mutex_unlock(&tables_lock);
    return rv;
}

#define MAKE(name, parameters, arguments) \
    static CK_RV name parameters \
    { \
        struct call call; \
        CK_RV rv = CKR_OK; \
        if (begin(&call, N_##name, s, true)) \
            rv = adopt(real->name arguments, s, t, n, out); \
        return end(&call, rv); \
    }
MAKE(C_CreateObject, (CK_SESSION s, TEMPLATE, CK_OBJECT *out), (SES(s), t, n, out))
MAKE(C_CopyObject, (CK_SESSION s, CK_OBJECT o, TEMPLATE, CK_OBJECT *out), (SES(s), OBJ(o), t, n, out))
MAKE(C_GenerateKey, (CK_SESSION s, CK_MECHANISM *m, TEMPLATE, CK_OBJECT *out), (SES(s), m, t, n, out))
MAKE(C_UnwrapKey, (CK_SESSION s, CK_MECHANISM *m, CK_OBJECT k, IN, TEMPLATE, CK_OBJECT *out),
     (SES(s), m, OBJ(k), in, in_len, t, n, out))
MAKE(C_DeriveKey, (CK_SESSION s, CK_MECHANISM *m, CK_OBJECT k, TEMPLATE, CK_OBJECT *out), (SES(s), m, OBJ(k), t, n, out))

static CK_RV C_GenerateKeyPair(CK_SESSION s, CK_MECHANISM *m, TEMPLATE, CK_ATTRIBUTE *t2, CK_ULONG n2,
                               CK_OBJECT *out, CK_OBJECT *out2)
{
    struct call call;
    CK_RV rv = CKR_OK;
    if (begin(&call, N_C_GenerateKeyPair, s, true)) {
        rv = adopt(real->C_GenerateKeyPair(SES(s), m, t, n, t2, n2, out, out2), s, t, n, out);
        rv = adopt(rv, s, t2, n2, out2);
    }
    return end(&call, rv);
}

static CK_RV C_DestroyObject(CK_SESSION s, CK_OBJECT o)
{
    struct call call;
    CK_RV rv = CKR_OK;
    if (begin(&call, N_C_DestroyObject, s, true)) {
        CK_OBJECT handle = OBJ(o);
        rv = real->C_DestroyObject(SES(s), handle);
        pthread_mutex_lock(&tables_lock);
        if (rv == CKR_OK && OBJ(o) == handle) /* not yet lost and given to another */
            forget_locked(&objects, o);
        pthread_mutex_unlock(&tables_lock);
    }
    return end(&call, rv);
}

/* Who is not logged in sees no private objects. */
static CK_RV C_FindObjects(CK_SESSION s, CK_OBJECT *found, CK_ULONG max, CK_ULONG *count)
{
    struct call call;
    CK_RV rv = CKR_OK;
    if (begin(&call, N_C_FindObjects, s, false) && (rv = real->C_FindObjects(SES(s), found, max, count)) == CKR_OK) {
        pthread_mutex_lock(&tables_lock);
        for (CK_ULONG i = 0; i < *count && rv == CKR_OK; i++)
            rv = number_of_locked(found[i], &found[i]);
        pthread_mutex_unlock(&tables_lock);
        if (atomic_load(&logged_out))
            *count = 0;
    }
    return end(&call, rv);
}

/* ---- Loading ---- */

static void complain(const char *what, const char *why)
{
    fprintf(stderr, "faultmodule: %s: %s\n", what, why);
}

static struct control *map_control(void)
{
    Dl_info self;
    char path[4096];
    if (!dladdr((void *)&map_control, &self))
        return complain("its own path", "unknown"), NULL;
    snprintf(path, sizeof path, "%s.control", self.dli_fname);
    int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0)
        return complain(path, "cannot be opened: it is written before the module is loaded"), NULL;
    bool fits = lseek(fd, 0, SEEK_END) == sizeof(struct control);
    struct control *c = MAP_FAILED;
    if (fits)
        c = mmap(NULL, sizeof *c, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (c == MAP_FAILED || strncmp(c->magic, CONTROL_MAGIC, sizeof c->magic) != 0)
        return complain(path, "is not a control file of this version"), NULL;

    static const char *const names[] = {
#define NAME(kind, name, parameters, arguments) #name,
        FUNCTIONS(NAME)
    };
    for (int i = 0; i < FUNCTION_COUNT; i++)
        if (strncmp(c->functions[i].name, names[i], sizeof c->functions[i].name) != 0)
            return complain(path, "lists other functions than the module"), NULL;
    return c;
}

static struct CK_FUNCTION_LIST *load_real(const char *path)
{
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (library == NULL)
        return complain(path, dlerror()), NULL;
    CK_RV (*get)(struct CK_FUNCTION_LIST **) = (CK_RV(*)(struct CK_FUNCTION_LIST **))dlsym(library, "C_GetFunctionList");
    struct CK_FUNCTION_LIST *list = NULL;
    if (get == NULL || get(&list) != CKR_OK)
        return complain(path, "is not a PKCS#11 module"), NULL;
    return list;
}

CK_RV C_GetFunctionList(struct CK_FUNCTION_LIST **list);

static struct CK_FUNCTION_LIST own = {
    .version = {2, 40},
#define ENTRY(kind, name, parameters, arguments) .name = name,
    FUNCTIONS(ENTRY)
};

static void load(void)
{
    struct control *c = map_control();
    if (c == NULL || (real = load_real(c->real)) == NULL)
        return;
    own.version = real->version;
    control = c;
}

/* Always answers a list, since some applications do not look at the return value; if the control file or the real
 * module is missing, every function in it answers CKR_CRYPTOKI_NOT_INITIALIZED, and standard error says why. */
__attribute__((visibility("default"))) CK_RV C_GetFunctionList(struct CK_FUNCTION_LIST **list)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, load);
    *list = &own;
    return CKR_OK;
}
