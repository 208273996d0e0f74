/* control.h: the file through which a test steers the module. Both sides map it; every number is a 64-bit word of the
 * host's byte order, read and written atomically. control.go mirrors this layout word for word. */
#ifndef RAMZBAN_CONTROL_H
#define RAMZBAN_CONTROL_H

#include <stdatomic.h>
#include <stdint.h>

#include "cryptoki.h"

#define CONTROL_MAGIC "ramzban-fault/1" /* changes with the layout */

typedef _Atomic uint64_t word;

struct function {
    char name[32];  /* compared at load with the module's own list, so that the two sides cannot drift apart */
    word calls;     /* how often it was called, failed calls included */
    word injected;  /* how many of those were answered with the code below */
    word delay_us;  /* each call waits this long first; shortening it releases the calls that wait */
    word lock;      /* 1 while one side reads or writes the five words below together */
    word code;      /* the CKR to answer; 0 = no fault */
    word done;      /* 1 = call the real function first: "failed but done" */
    word skip;      /* let so many calls pass first */
    word times;     /* then answer so many with the code; all ones = every one */
    word threshold; /* of these, answer one whose random word is at most this; all ones = each */
    word random;    /* state of the generator */
};

struct control {
    char magic[16];
    char real[1024];       /* path of the module to wrap */
    word commands;         /* grows with each of the next three, so that a call looks at one word only */
    word lose_sessions;    /* grows: every session and session object is forgotten */
    word lose_objects;     /* grows: every object handle is forgotten; searching gives new ones */
    word lose_login;       /* grows: the user is not logged in any more */
    word broken;           /* a CKR that every function of the token answers until C_Finalize and C_Initialize; 0 = none */
    word session_limit;    /* further C_OpenSession answer CKR_SESSION_COUNT; 0 = no limit */
    word generation;       /* successful C_Initialize */
    word sessions;         /* open now */
    word session_objects;  /* session objects that exist now */
    word shared_sessions;  /* fault of the application: a call on a session in which another call was running */
    word early_finalizes;  /* fault of the application: C_Finalize while another call was running; refused */
    struct function functions[FUNCTION_COUNT];
};

#endif
