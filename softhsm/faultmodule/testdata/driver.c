/* driver: loads the PKCS#11 module named by its argument and carries out commands from standard input, one a line.
 * It answers each with "<CKR in hex> <value>", where the value is a handle, a number or the bytes made, in hex.
 * A key is a generic secret of 32 bytes whose bytes all equal its fill, so that its MACs tell which key made them. */
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "../module/cryptoki.h"

enum { CKM_SHA256_HMAC = 0x251, CKA_CLASS = 0, CKA_LABEL = 3, CKA_VALUE = 0x11, CKA_KEY_TYPE = 0x100, CKA_SIGN = 0x108 };

static struct CK_FUNCTION_LIST *p11;
static CK_ULONG value;

static CK_RV slot_of(const char *label) /* the slot whose token's label begins so */
{
    CK_SLOT slots[64];
    CK_ULONG count = 64;
    CK_RV rv = p11->C_GetSlotList(1, slots, &count);
    for (CK_ULONG i = 0; rv == CKR_OK && i < count; i++) {
        char info[512]; /* CK_TOKEN_INFO begins with the label */
        if ((rv = p11->C_GetTokenInfo(slots[i], info)) == CKR_OK && strncmp(info, label, strlen(label)) == 0)
            value = slots[i];
    }
    return rv;
}

static CK_RV create(CK_SESSION s, byte fill, byte token, char *label)
{
    CK_ULONG class = 4, type = 0x10; /* CKO_SECRET_KEY, CKK_GENERIC_SECRET */
    byte key[32], yes = 1;
    memset(key, fill, sizeof key);
    CK_ATTRIBUTE t[] = {
        {CKA_CLASS, &class, sizeof class}, {CKA_KEY_TYPE, &type, sizeof type}, {CKA_VALUE, key, sizeof key},
        {CKA_SIGN, &yes, 1}, {CKA_TOKEN, &token, 1}, {CKA_LABEL, label, strlen(label)},
    };
    return p11->C_CreateObject(s, t, sizeof t / sizeof *t, &value);
}

static CK_RV find(CK_SESSION s, char *label)
{
    CK_ATTRIBUTE t = {CKA_LABEL, label, strlen(label)};
    CK_ULONG count = 0;
    CK_RV rv = p11->C_FindObjectsInit(s, &t, 1);
    if (rv == CKR_OK && (rv = p11->C_FindObjects(s, &value, 1, &count)) == CKR_OK)
        rv = p11->C_FindObjectsFinal(s);
    if (count == 0)
        value = 0;
    return rv;
}

static CK_RV sign(CK_SESSION s, CK_OBJECT key, byte *mac)
{
    CK_MECHANISM m = {CKM_SHA256_HMAC, NULL, 0};
    CK_ULONG length = 32;
    CK_RV rv = p11->C_SignInit(s, &m, key);
    return rv == CKR_OK ? p11->C_Sign(s, (byte *)"message", 7, mac, &length) : rv;
}

static pthread_t other;

static void *random_bytes(void *session)
{
    byte out[8];
    return (void *)p11->C_GenerateRandom((CK_SESSION)session, out, sizeof out);
}

/* Makes a call in another thread; "join" waits for it and answers what it answered. */
static CK_RV start(CK_SESSION s) { return (CK_RV)pthread_create(&other, NULL, random_bytes, (void *)s); }

static CK_RV join(void)
{
    void *rv;
    pthread_join(other, &rv);
    return (CK_RV)rv;
}

static CK_RV obey(const char *command, CK_ULONG a, CK_ULONG b, CK_ULONG c, char *text, byte *bytes)
{
    if (!strcmp(command, "init")) return p11->C_Initialize(NULL);
    if (!strcmp(command, "finalize")) return p11->C_Finalize(NULL);
    if (!strcmp(command, "slot")) return slot_of(text);
    if (!strcmp(command, "open")) return p11->C_OpenSession(a, 4 | 2, NULL, NULL, &value); /* serial, read-write */
    if (!strcmp(command, "close")) return p11->C_CloseSession(a);
    if (!strcmp(command, "closeall")) return p11->C_CloseAllSessions(a);
    if (!strcmp(command, "login")) return p11->C_Login(a, 1, (byte *)text, strlen(text));
    if (!strcmp(command, "create")) return create(a, (byte)b, (byte)c, text);
    if (!strcmp(command, "find")) return find(a, text);
    if (!strcmp(command, "destroy")) return p11->C_DestroyObject(a, b);
    if (!strcmp(command, "sign")) return sign(a, b, bytes);
    if (!strcmp(command, "random")) return p11->C_GenerateRandom(a, bytes, 32);
    if (!strcmp(command, "start")) return start(a);
    if (!strcmp(command, "join")) return join();
    return 0xffff;
}

int main(int argc, char **argv)
{
    void *library = argc == 2 ? dlopen(argv[1], RTLD_NOW) : NULL;
    CK_RV (*get)(struct CK_FUNCTION_LIST **) = NULL;
    if (library != NULL)
        get = (CK_RV(*)(struct CK_FUNCTION_LIST **))dlsym(library, "C_GetFunctionList");
    if (get == NULL || get(&p11) != CKR_OK)
        return 1;
    char line[256], command[32], text[64];
    while (fgets(line, sizeof line, stdin)) {
        CK_ULONG a = 0, b = 0, c = 0;
        byte bytes[32] = {0};
        value = 0;
        *text = 0;
        sscanf(line, "%31s %63s %lu %lu %lu", command, text, &a, &b, &c); /* the text first, "-" where there is none */
        CK_RV rv = obey(command, a, b, c, text, bytes);
        printf("%lx %lu ", rv, value);
        for (int i = 0; i < 32; i++)
            printf("%02x", bytes[i]);
        printf("\n");
        fflush(stdout);
    }
    return 0;
}
