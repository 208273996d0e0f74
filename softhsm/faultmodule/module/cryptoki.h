/* cryptoki.h: the part of PKCS#11 2.40 that a forwarding module needs (OASIS PKCS#11 Base Specification, sections 3 to 5).
 *
 * FUNCTIONS lists every function in the order of CK_FUNCTION_LIST, as F(kind, name, parameters, arguments). The kinds are
 *   OWN      written out by hand in faultmodule.c
 *   PLAIN    forwarded; takes no session
 *   SESSION  forwarded; its first parameter is the session s
 *   LOGIN    as SESSION, and works only when the user is logged in
 * The arguments say how a call is forwarded: SLOT, SES and OBJ turn the numbers that the application knows into those of
 * the real module. */
#ifndef RAMZBAN_CRYPTOKI_H
#define RAMZBAN_CRYPTOKI_H

typedef unsigned char byte;
typedef unsigned long CK_ULONG, CK_RV, CK_SLOT, CK_SESSION, CK_OBJECT;
typedef struct { byte major, minor; } CK_VERSION;
typedef struct { CK_ULONG type; void *value; CK_ULONG length; } CK_ATTRIBUTE;
typedef struct { CK_ULONG type; void *parameter; CK_ULONG length; } CK_MECHANISM;
typedef struct { CK_SLOT slot; CK_ULONG state, flags, device_error; } CK_SESSION_INFO;
struct CK_FUNCTION_LIST;

enum {
    CKR_OK = 0x00, CKR_HOST_MEMORY = 0x02, CKR_GENERAL_ERROR = 0x05, CKR_SESSION_COUNT = 0xb1,
    CKR_USER_ALREADY_LOGGED_IN = 0x100, CKR_USER_NOT_LOGGED_IN = 0x101, CKR_CRYPTOKI_NOT_INITIALIZED = 0x190,
    CKA_TOKEN = 0x01,
};

#define IN byte *in, CK_ULONG in_len
#define INOUT byte *in, CK_ULONG in_len, byte *out, CK_ULONG *out_len
#define OUT byte *out, CK_ULONG *out_len
#define TEMPLATE CK_ATTRIBUTE *t, CK_ULONG n

#define FUNCTIONS(F) \
    F(OWN, C_Initialize, (void *args), ()) \
    F(OWN, C_Finalize, (void *reserved), ()) \
    F(PLAIN, C_GetInfo, (void *info), (info)) \
    F(OWN, C_GetFunctionList, (struct CK_FUNCTION_LIST **list), ()) \
    F(OWN, C_GetSlotList, (byte present, CK_SLOT *slots, CK_ULONG *count), ()) \
    F(PLAIN, C_GetSlotInfo, (CK_SLOT id, void *info), (SLOT(id), info)) \
    F(PLAIN, C_GetTokenInfo, (CK_SLOT id, void *info), (SLOT(id), info)) \
    F(PLAIN, C_GetMechanismList, (CK_SLOT id, CK_ULONG *list, CK_ULONG *count), (SLOT(id), list, count)) \
    F(PLAIN, C_GetMechanismInfo, (CK_SLOT id, CK_ULONG mech, void *info), (SLOT(id), mech, info)) \
    F(PLAIN, C_InitToken, (CK_SLOT id, IN, byte *label), (SLOT(id), in, in_len, label)) \
    F(SESSION, C_InitPIN, (CK_SESSION s, IN), (SES(s), in, in_len)) \
    F(SESSION, C_SetPIN, (CK_SESSION s, IN, byte *pin, CK_ULONG pin_len), (SES(s), in, in_len, pin, pin_len)) \
    F(OWN, C_OpenSession, (CK_SLOT id, CK_ULONG flags, void *app, void *notify, CK_SESSION *out), ()) \
    F(OWN, C_CloseSession, (CK_SESSION s), ()) \
    F(OWN, C_CloseAllSessions, (CK_SLOT id), ()) \
    F(OWN, C_GetSessionInfo, (CK_SESSION s, CK_SESSION_INFO *info), ()) \
    F(SESSION, C_GetOperationState, (CK_SESSION s, OUT), (SES(s), out, out_len)) \
    F(SESSION, C_SetOperationState, (CK_SESSION s, IN, CK_OBJECT a, CK_OBJECT b), (SES(s), in, in_len, OBJ(a), OBJ(b))) \
    F(OWN, C_Login, (CK_SESSION s, CK_ULONG user, IN), ()) \
    F(SESSION, C_Logout, (CK_SESSION s), (SES(s))) \
    F(OWN, C_CreateObject, (CK_SESSION s, TEMPLATE, CK_OBJECT *out), ()) \
    F(OWN, C_CopyObject, (CK_SESSION s, CK_OBJECT o, TEMPLATE, CK_OBJECT *out), ()) \
    F(OWN, C_DestroyObject, (CK_SESSION s, CK_OBJECT o), ()) \
    F(LOGIN, C_GetObjectSize, (CK_SESSION s, CK_OBJECT o, CK_ULONG *size), (SES(s), OBJ(o), size)) \
    F(LOGIN, C_GetAttributeValue, (CK_SESSION s, CK_OBJECT o, TEMPLATE), (SES(s), OBJ(o), t, n)) \
    F(LOGIN, C_SetAttributeValue, (CK_SESSION s, CK_OBJECT o, TEMPLATE), (SES(s), OBJ(o), t, n)) \
    F(SESSION, C_FindObjectsInit, (CK_SESSION s, TEMPLATE), (SES(s), t, n)) \
    F(OWN, C_FindObjects, (CK_SESSION s, CK_OBJECT *found, CK_ULONG max, CK_ULONG *count), ()) \
    F(SESSION, C_FindObjectsFinal, (CK_SESSION s), (SES(s))) \
    F(LOGIN, C_EncryptInit, (CK_SESSION s, CK_MECHANISM *m, CK_OBJECT k), (SES(s), m, OBJ(k))) \
    F(SESSION, C_Encrypt, (CK_SESSION s, INOUT), (SES(s), in, in_len, out, out_len)) \
    F(SESSION, C_EncryptUpdate, (CK_SESSION s, INOUT), (SES(s), in, in_len, out, out_len)) \
    F(SESSION, C_EncryptFinal, (CK_SESSION s, OUT), (SES(s), out, out_len)) \
    F(LOGIN, C_DecryptInit, (CK_SESSION s, CK_MECHANISM *m, CK_OBJECT k), (SES(s), m, OBJ(k))) \
    F(SESSION, C_Decrypt, (CK_SESSION s, INOUT), (SES(s), in, in_len, out, out_len)) \
    F(SESSION, C_DecryptUpdate, (CK_SESSION s, INOUT), (SES(s), in, in_len, out, out_len)) \
    F(SESSION, C_DecryptFinal, (CK_SESSION s, OUT), (SES(s), out, out_len)) \
    F(SESSION, C_DigestInit, (CK_SESSION s, CK_MECHANISM *m), (SES(s), m)) \
    F(SESSION, C_Digest, (CK_SESSION s, INOUT), (SES(s), in, in_len, out, out_len)) \
    F(SESSION, C_DigestUpdate, (CK_SESSION s, IN), (SES(s), in, in_len)) \
    F(LOGIN, C_DigestKey, (CK_SESSION s, CK_OBJECT k), (SES(s), OBJ(k))) \
    F(SESSION, C_DigestFinal, (CK_SESSION s, OUT), (SES(s), out, out_len)) \
    F(LOGIN, C_SignInit, (CK_SESSION s, CK_MECHANISM *m, CK_OBJECT k), (SES(s), m, OBJ(k))) \
    F(SESSION, C_Sign, (CK_SESSION s, INOUT), (SES(s), in, in_len, out, out_len)) \
    F(SESSION, C_SignUpdate, (CK_SESSION s, IN), (SES(s), in, in_len)) \
    F(SESSION, C_SignFinal, (CK_SESSION s, OUT), (SES(s), out, out_len)) \
    F(LOGIN, C_SignRecoverInit, (CK_SESSION s, CK_MECHANISM *m, CK_OBJECT k), (SES(s), m, OBJ(k))) \
    F(SESSION, C_SignRecover, (CK_SESSION s, INOUT), (SES(s), in, in_len, out, out_len)) \
    F(LOGIN, C_VerifyInit, (CK_SESSION s, CK_MECHANISM *m, CK_OBJECT k), (SES(s), m, OBJ(k))) \
    F(SESSION, C_Verify, (CK_SESSION s, IN, byte *sig, CK_ULONG sig_len), (SES(s), in, in_len, sig, sig_len)) \
    F(SESSION, C_VerifyUpdate, (CK_SESSION s, IN), (SES(s), in, in_len)) \
    F(SESSION, C_VerifyFinal, (CK_SESSION s, IN), (SES(s), in, in_len)) \
    F(LOGIN, C_VerifyRecoverInit, (CK_SESSION s, CK_MECHANISM *m, CK_OBJECT k), (SES(s), m, OBJ(k))) \
    F(SESSION, C_VerifyRecover, (CK_SESSION s, INOUT), (SES(s), in, in_len, out, out_len)) \
    F(SESSION, C_DigestEncryptUpdate, (CK_SESSION s, INOUT), (SES(s), in, in_len, out, out_len)) \
    F(SESSION, C_DecryptDigestUpdate, (CK_SESSION s, INOUT), (SES(s), in, in_len, out, out_len)) \
    F(SESSION, C_SignEncryptUpdate, (CK_SESSION s, INOUT), (SES(s), in, in_len, out, out_len)) \
    F(SESSION, C_DecryptVerifyUpdate, (CK_SESSION s, INOUT), (SES(s), in, in_len, out, out_len)) \
    F(OWN, C_GenerateKey, (CK_SESSION s, CK_MECHANISM *m, TEMPLATE, CK_OBJECT *out), ()) \
    F(OWN, C_GenerateKeyPair, (CK_SESSION s, CK_MECHANISM *m, TEMPLATE, CK_ATTRIBUTE *t2, CK_ULONG n2, \
                               CK_OBJECT *out, CK_OBJECT *out2), ()) \
    F(LOGIN, C_WrapKey, (CK_SESSION s, CK_MECHANISM *m, CK_OBJECT w, CK_OBJECT k, OUT), \
                        (SES(s), m, OBJ(w), OBJ(k), out, out_len)) \
    F(OWN, C_UnwrapKey, (CK_SESSION s, CK_MECHANISM *m, CK_OBJECT k, IN, TEMPLATE, CK_OBJECT *out), ()) \
    F(OWN, C_DeriveKey, (CK_SESSION s, CK_MECHANISM *m, CK_OBJECT k, TEMPLATE, CK_OBJECT *out), ()) \
    F(SESSION, C_SeedRandom, (CK_SESSION s, IN), (SES(s), in, in_len)) \
    F(SESSION, C_GenerateRandom, (CK_SESSION s, IN), (SES(s), in, in_len)) \
    F(SESSION, C_GetFunctionStatus, (CK_SESSION s), (SES(s))) \
    F(SESSION, C_CancelFunction, (CK_SESSION s), (SES(s))) \
    F(OWN, C_WaitForSlotEvent, (CK_ULONG flags, CK_SLOT *id, void *reserved), ())

/* CK_FUNCTION_LIST, and the number of each function in it. */
#define FIELD(kind, name, parameters, arguments) CK_RV(*name) parameters;
#define NUMBER(kind, name, parameters, arguments) N_##name,
struct CK_FUNCTION_LIST {
    CK_VERSION version;
    FUNCTIONS(FIELD)
};
enum { FUNCTIONS(NUMBER) FUNCTION_COUNT };

#endif
