/* SPDX-License-Identifier: Apache-2.0 */
/* SHA-256, SHA-1, constant-time compare, base64.
 * The algorithms are fetched once per process: in OpenSSL 3 a fetch by name takes locks and costs more than hashing a
 * record, and settlement hashes 100,000 records a second. One-shot calls reuse one context per thread, freed with its
 * thread. Nothing here can fail: OpenSSL without these algorithms is a broken installation, caught by GF_ASSERT. */
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <pthread.h>
#include <stdlib.h>

#include "gf/crypto.h"

static pthread_once_t once = PTHREAD_ONCE_INIT;
static pthread_key_t context_key; /* EVP_MD_CTX of the thread */
static EVP_MD *sha256, *sha1;     /* for the life of the process */

struct gf_sha256_ctx {
    EVP_MD_CTX *native;
};

static void free_context(void *context) { EVP_MD_CTX_free(context); }

static void fetch_algorithms(void)
{
    sha256 = EVP_MD_fetch(NULL, "SHA256", NULL);
    sha1 = EVP_MD_fetch(NULL, "SHA1", NULL);
    GF_ASSERT(sha256 && sha1);
    int rc = pthread_key_create(&context_key, free_context);
    GF_ASSERT(rc == 0);
}

static EVP_MD_CTX *thread_context(void)
{
    EVP_MD_CTX *context;

    GF_ASSERT(pthread_once(&once, fetch_algorithms) == 0);
    context = pthread_getspecific(context_key);
    if (context)
        return context;
    context = EVP_MD_CTX_new();
    GF_ASSERT(context);
    int rc = pthread_setspecific(context_key, context);
    GF_ASSERT(rc == 0);
    return context;
}

static void digest(EVP_MD *const *algorithm, const void *bytes, size_t len, uint8_t *digest_r)
{
    EVP_MD_CTX *context = thread_context(); /* also fills *algorithm */
    int ok = EVP_DigestInit_ex(context, *algorithm, NULL) && EVP_DigestUpdate(context, bytes, len) &&
             EVP_DigestFinal_ex(context, digest_r, NULL);

    GF_ASSERT(ok);
}

void gf_sha256(const void *bytes, size_t len, uint8_t digest_r[32]) { digest(&sha256, bytes, len, digest_r); }

void gf_sha1(const void *bytes, size_t len, uint8_t digest_r[20]) { digest(&sha1, bytes, len, digest_r); }

struct gf_sha256_ctx *gf_sha256_create(void)
{
    struct gf_sha256_ctx *ctx = gf_xcalloc(1, sizeof(*ctx));

    GF_ASSERT(pthread_once(&once, fetch_algorithms) == 0);
    ctx->native = EVP_MD_CTX_new();
    GF_ASSERT(ctx->native);
    return ctx;
}

void gf_sha256_begin(struct gf_sha256_ctx *ctx)
{
    int ok = EVP_DigestInit_ex(ctx->native, sha256, NULL);

    GF_ASSERT(ok);
}

void gf_sha256_add(struct gf_sha256_ctx *ctx, const void *bytes, size_t len)
{
    int ok = EVP_DigestUpdate(ctx->native, bytes, len);

    GF_ASSERT(ok);
}

void gf_sha256_end(struct gf_sha256_ctx *ctx, uint8_t digest_r[32])
{
    int ok = EVP_DigestFinal_ex(ctx->native, digest_r, NULL);

    GF_ASSERT(ok);
}

void gf_sha256_destroy(struct gf_sha256_ctx **ctx)
{
    if (!*ctx)
        return;
    EVP_MD_CTX_free((*ctx)->native);
    free(*ctx);
    *ctx = NULL;
}

bool gf_equal_constant_time(const void *a, const void *b, size_t len) { return CRYPTO_memcmp(a, b, len) == 0; }

static size_t encode(const char alphabet[static 64], const uint8_t *bytes, size_t len, char *text_r)
{
    size_t out = 0, i = 0;
    uint32_t group;

    for (; i + 3 <= len; i += 3) {
        group = (uint32_t)bytes[i] << 16 | (uint32_t)bytes[i + 1] << 8 | bytes[i + 2];
        for (int shift = 18; shift >= 0; shift -= 6)
            text_r[out++] = alphabet[group >> shift & 63];
    }
    if (i < len) {
        group = (uint32_t)bytes[i] << 16 | (i + 1 < len ? (uint32_t)bytes[i + 1] << 8 : 0);
        text_r[out++] = alphabet[group >> 18 & 63];
        text_r[out++] = alphabet[group >> 12 & 63];
        if (i + 1 < len)
            text_r[out++] = alphabet[group >> 6 & 63];
    }
    text_r[out] = '\0';
    return out;
}

size_t gf_base64_encode(const void *bytes, size_t len, char *text_r)
{
    size_t out = encode("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/", bytes, len, text_r);

    while (out % 4 != 0)
        text_r[out++] = '=';
    text_r[out] = '\0';
    return out;
}

size_t gf_base64url_encode(const void *bytes, size_t len, char *text_r)
{
    return encode("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_", bytes, len, text_r);
}

static int base64url_value(char c)
{
    if (c >= 'A' && c <= 'Z')
        return c - 'A';
    if (c >= 'a' && c <= 'z')
        return c - 'a' + 26;
    if (c >= '0' && c <= '9')
        return c - '0' + 52;
    return c == '-' ? 62 : c == '_' ? 63 : -1;
}

bool gf_base64url_decode(const char *text, size_t len, void *bytes_r, size_t size, size_t *len_r)
{
    uint8_t *bytes = bytes_r;
    uint32_t bits = 0;
    int bit_count = 0;
    size_t out = 0;

    if (len % 4 == 1 || len / 4 * 3 + (len % 4 ? len % 4 - 1 : 0) > size)
        return false;
    for (size_t i = 0; i < len; i++) {
        int value = base64url_value(text[i]);

        if (value < 0)
            return false;
        bits = bits << 6 | (uint32_t)value;
        bit_count += 6;
        if (bit_count >= 8) {
            bit_count -= 8;
            bytes[out++] = (uint8_t)(bits >> bit_count);
            bits &= (1U << bit_count) - 1;
        }
    }
    if (bits != 0) /* a second spelling of the same bytes */
        return false;
    *len_r = out;
    return true;
}
