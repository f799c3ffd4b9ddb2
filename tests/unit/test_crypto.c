/* SPDX-License-Identifier: Apache-2.0 */
/* Digests against published vectors; tokens: a table of what must be refused, each differing from a good token by one thing. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/pem.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "gf/buf.h"
#include "gf/crypto.h"

#define NOW INT64_C(1700000000)
#define SECRET "a secret of the tests, 32 bytes at least"

static char folder[] = "/tmp/gf-crypto-XXXXXX";
static char secret_file[128], public_file[128];
static EVP_PKEY *rsa, *other_rsa;

static void hex(const uint8_t *bytes, size_t len, char *text_r)
{
    for (size_t i = 0; i < len; i++)
        snprintf(text_r + 2 * i, 3, "%02x", bytes[i]);
}

/* ---- digests ---- */

static void digests_equal_the_published_vectors(void **state)
{
    static const struct {
        const char *text, *sha256, *sha1;
    } rows[] = {
        {"", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", "da39a3ee5e6b4b0d3255bfef95601890afd80709"},
        {"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad", "a9993e364706816aba3e25717850c26c9cd0d89d"},
        {"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
         "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1", "84983e441c3bd26ebaae4aa1f95129e5e54670f1"},
    };
    struct gf_sha256_ctx *ctx = gf_sha256_create();
    uint8_t digest[32];
    char text[65];

    (void)state;
    for (size_t i = 0; i < GF_COUNT(rows); i++) {
        gf_sha256(rows[i].text, strlen(rows[i].text), digest);
        hex(digest, 32, text);
        assert_string_equal(text, rows[i].sha256);
        gf_sha1(rows[i].text, strlen(rows[i].text), digest);
        hex(digest, 20, text);
        assert_string_equal(text, rows[i].sha1);
        gf_sha256_begin(ctx); /* the same context again and again */
        for (const char *c = rows[i].text; *c; c++)
            gf_sha256_add(ctx, c, 1);
        gf_sha256_end(ctx, digest);
        hex(digest, 32, text);
        assert_string_equal(text, rows[i].sha256);
    }
    gf_sha256_destroy(&ctx);
    assert_null(ctx);
    gf_sha256_destroy(&ctx);
}

static void *hash_many(void *arg)
{
    uint8_t digest[32];
    char text[65];

    (void)arg;
    for (int i = 0; i < 2000; i++) {
        gf_sha256("abc", 3, digest);
        hex(digest, 32, text);
        if (strcmp(text, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad") != 0)
            return text[0] ? (void *)1 : NULL;
    }
    return NULL;
}

static void digests_work_on_several_threads_at_once(void **state)
{
    pthread_t threads[4];
    void *failed;

    (void)state;
    for (size_t i = 0; i < GF_COUNT(threads); i++)
        assert_int_equal(pthread_create(&threads[i], NULL, hash_many, NULL), 0);
    for (size_t i = 0; i < GF_COUNT(threads); i++) {
        assert_int_equal(pthread_join(threads[i], &failed), 0);
        assert_null(failed);
    }
}

static void constant_time_compare_compares(void **state)
{
    (void)state;
    assert_true(gf_equal_constant_time("abcd", "abcd", 4));
    assert_false(gf_equal_constant_time("abcd", "abce", 4));
    assert_false(gf_equal_constant_time("abcd", "bbcd", 4));
    assert_true(gf_equal_constant_time("abcd", "abce", 3));
}

static void base64_equals_rfc_4648_and_rfc_6455(void **state)
{
    static const struct {
        const char *bytes, *text, *url;
    } rows[] = {{"", "", ""},          {"f", "Zg==", "Zg"},         {"fo", "Zm8=", "Zm8"},           {"foo", "Zm9v", "Zm9v"},
                {"foob", "Zm9vYg==", "Zm9vYg"}, {"fooba", "Zm9vYmE=", "Zm9vYmE"}, {"\xfb\xff\xfe", "+//+", "-__-"}};
    static const char accept[] = "dGhlIHNhbXBsZSBub25jZQ==258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
    uint8_t bytes[32];
    char text[64];
    size_t len = 99;

    (void)state;
    for (size_t i = 0; i < GF_COUNT(rows); i++) {
        assert_int_equal(gf_base64_encode(rows[i].bytes, strlen(rows[i].bytes), text), strlen(rows[i].text));
        assert_string_equal(text, rows[i].text);
        assert_int_equal(gf_base64url_encode(rows[i].bytes, strlen(rows[i].bytes), text), strlen(rows[i].url));
        assert_string_equal(text, rows[i].url);
        assert_true(gf_base64url_decode(text, strlen(text), bytes, sizeof(bytes), &len));
        assert_int_equal(len, strlen(rows[i].bytes));
        assert_memory_equal(bytes, rows[i].bytes, len);
    }
    gf_sha1(accept, strlen(accept), bytes);
    gf_base64_encode(bytes, 20, text);
    assert_string_equal(text, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
}

static void base64url_has_one_spelling(void **state)
{
    static const char *const bad[] = {"Zg==", "Z", "Zm9vY", "Zh", "Zm9", "Zm+v", "Zm/v", "Zm v", "Zm\nv", "Zm9v=", "Zm\xc3\xa4"};
    uint8_t bytes[32];
    size_t len = 77;

    (void)state;
    for (size_t i = 0; i < GF_COUNT(bad); i++) {
        if (gf_base64url_decode(bad[i], strlen(bad[i]), bytes, sizeof(bytes), &len))
            fail_msg("accepted '%s'", bad[i]);
        assert_int_equal(len, 77);
    }
    assert_false(gf_base64url_decode("Zm9v", 4, bytes, 2, &len));
    assert_true(gf_base64url_decode("Zm9v", 4, bytes, 3, &len));
    assert_false(gf_base64url_decode("Zm\0v", 4, bytes, sizeof(bytes), &len));
}

/* ---- tokens ---- */

static void write_file(const char *path, const void *bytes, size_t len)
{
    FILE *file = fopen(path, "w");

    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, len, file), len);
    assert_int_equal(fclose(file), 0);
}

static void public_pem(EVP_PKEY *key, char *pem_r, size_t size)
{
    BIO *bio = BIO_new(BIO_s_mem());
    char *data;
    long len;

    assert_int_equal(PEM_write_bio_PUBKEY(bio, key), 1);
    len = BIO_get_mem_data(bio, &data);
    assert_true(len > 0 && (size_t)len < size);
    memcpy(pem_r, data, (size_t)len);
    pem_r[len] = '\0';
    BIO_free(bio);
}

static int make_keys(void **state)
{
    char pem[4096];

    (void)state;
    if (!mkdtemp(folder))
        return -1;
    snprintf(secret_file, sizeof(secret_file), "%s/secret", folder);
    snprintf(public_file, sizeof(public_file), "%s/public.pem", folder);
    write_file(secret_file, SECRET "\n", sizeof(SECRET));
    rsa = EVP_PKEY_Q_keygen(NULL, NULL, "RSA", (size_t)2048);
    other_rsa = EVP_PKEY_Q_keygen(NULL, NULL, "RSA", (size_t)2048);
    if (!rsa || !other_rsa)
        return -1;
    public_pem(rsa, pem, sizeof(pem));
    write_file(public_file, pem, strlen(pem));
    return 0;
}

static int drop_keys(void **state)
{
    (void)state;
    EVP_PKEY_free(rsa);
    EVP_PKEY_free(other_rsa);
    unlink(secret_file);
    unlink(public_file);
    return rmdir(folder);
}

enum signer { HS, HS_WRONG_KEY, RS, RS_WRONG_KEY, HS_WITH_PUBLIC_PEM, UNSIGNED };

static size_t sign(enum signer signer, const char *input, size_t len, uint8_t *signature_r)
{
    char key[4096] = SECRET;
    unsigned mac_len = 0;
    size_t out = 512;
    EVP_MD_CTX *ctx;

    if (signer == UNSIGNED)
        return 0;
    if (signer == RS || signer == RS_WRONG_KEY) {
        ctx = EVP_MD_CTX_new();
        assert_int_equal(EVP_DigestSignInit(ctx, NULL, EVP_sha256(), NULL, signer == RS ? rsa : other_rsa), 1);
        assert_int_equal(EVP_DigestSign(ctx, signature_r, &out, (const uint8_t *)input, len), 1);
        EVP_MD_CTX_free(ctx);
        return out;
    }
    if (signer == HS_WITH_PUBLIC_PEM)
        public_pem(rsa, key, sizeof(key));
    if (signer == HS_WRONG_KEY)
        key[0] = 'b';
    HMAC(EVP_sha256(), key, (int)strlen(key), (const uint8_t *)input, len, signature_r, &mac_len);
    return mac_len;
}

static void make_token(enum signer signer, const char *header, const char *claims, char token_r[GF_JWT_MAX * 2])
{
    uint8_t signature[512];
    size_t len = gf_base64url_encode(header, strlen(header), token_r);

    token_r[len++] = '.';
    len += gf_base64url_encode(claims, strlen(claims), token_r + len);
    size_t signature_len = sign(signer, token_r, len, signature);
    token_r[len++] = '.';
    gf_base64url_encode(signature, signature_len, token_r + len);
}

static struct gf_config *configure(bool hs, bool rs)
{
    static struct gf_config config;

    memset(&config, 0, sizeof(config));
    if (hs)
        gf_copy(config.auth_hs256_secret_file, sizeof(config.auth_hs256_secret_file), secret_file);
    if (rs)
        gf_copy(config.auth_rs256_public_key_file, sizeof(config.auth_rs256_public_key_file), public_file);
    return &config;
}

static struct gf_jwt *open_jwt(const struct gf_config *config)
{
    struct gf_jwt *jwt = NULL;
    struct gf_error error = {0};

    if (gf_jwt_create(config, &jwt, &error) != GF_OK)
        fail_msg("gf_jwt_create: %s", error.text);
    return jwt;
}

static enum gf_class verify(struct gf_jwt *jwt, const char *token, int64_t now_s, struct gf_jwt_claims *claims_r,
                            struct gf_error *error_r)
{
    return gf_jwt_verify(jwt, token, strlen(token), now_s, claims_r, error_r);
}

#define H "{\"alg\":\"HS256\",\"typ\":\"JWT\"}"
#define HR "{\"alg\":\"RS256\"}"
#define C "{\"sub\":\"42\",\"exp\":1700000100}"

struct row {
    enum signer signer;
    const char *header, *claims;
    const char *reason; /* NULL: accepted as user 42 */
};

static void check_rows(const struct gf_config *config, const struct row *rows, size_t count)
{
    struct gf_jwt *jwt = open_jwt(config);
    char token[GF_JWT_MAX * 2];

    for (size_t i = 0; i < count; i++) {
        struct gf_jwt_claims claims = {-1, -1};
        struct gf_error error = {0};
        enum gf_class class;

        make_token(rows[i].signer, rows[i].header, rows[i].claims, token);
        class = verify(jwt, token, NOW, &claims, &error);
        if (class != (rows[i].reason ? GF_REJECT : GF_OK))
            fail_msg("row %zu (%s %s): class %d, %s", i, rows[i].header, rows[i].claims, class, error.text);
        if (!rows[i].reason)
            assert_int_equal(claims.user_id, 42);
        else if (!strstr(error.text, rows[i].reason))
            fail_msg("row %zu (%s %s): '%s'", i, rows[i].header, rows[i].claims, error.text);
        else
            assert_int_equal(claims.user_id, -1); /* untouched */
    }
    gf_jwt_destroy(&jwt);
    assert_null(jwt);
}

static void hs256_tokens_are_judged_strictly(void **state)
{
    static const struct row rows[] = {
        {HS, H, C, NULL},
        {HS, "{\"alg\":\"HS256\"}", C, NULL},
        {HS, "{\"alg\":\"HS256\",\"typ\":\"jwt\",\"kid\":\"any\"}", C, NULL},
        {HS, H, "{\"sub\":\"42\",\"exp\":1700000100,\"iat\":1.5,\"x\":{\"sub\":\"43\"}}", NULL},
        {HS, H, "{\"sub\":\"42\",\"exp\":1700000100,\"nbf\":1700000030}", NULL},
        /* algorithm and header */
        {UNSIGNED, "{\"alg\":\"none\"}", C, "malformed"}, /* empty third part */
        {HS, "{\"alg\":\"none\"}", C, "algorithm"},
        {HS, "{\"alg\":\"None\"}", C, "algorithm"},
        {HS, "{\"alg\":\"hs256\"}", C, "algorithm"},
        {HS, "{\"alg\":\"HS384\"}", C, "algorithm"},
        {HS, "{\"alg\":\"RS256\"}", C, "algorithm"},
        {RS, "{\"alg\":\"RS256\"}", C, "algorithm"},
        {HS, "{\"alg\":\"HS256\\u0000\"}", C, "malformed"},
        {HS, "{\"alg\":[\"HS256\"]}", C, "algorithm"},
        {HS, "{\"typ\":\"JWT\"}", C, "algorithm"},
        {HS, "{\"alg\":\"none\",\"alg\":\"HS256\"}", C, "malformed"},
        {HS, "{\"alg\":\"HS256\",\"crit\":[\"exp\"]}", C, "header"},
        {HS, "{\"alg\":\"HS256\",\"typ\":\"JWE\"}", C, "header"},
        {HS, "{\"alg\":\"HS256\",\"typ\":1}", C, "header"},
        {HS, "{\"alg\":\"HS256\",\"kid\":7}", C, "key id"},
        {HS, "[\"HS256\"]", C, "malformed"},
        {HS, "{\"alg\":\"HS256\"} x", C, "malformed"},
        {HS, "\"alg\"", C, "malformed"},
        /* signature */
        {HS_WRONG_KEY, H, C, "signature"},
        {RS, H, C, "signature"},
        /* expiry */
        {HS, H, "{\"sub\":\"42\"}", "expiry"},
        {HS, H, "{\"sub\":\"42\",\"exp\":1700000100.5}", "expiry"},
        {HS, H, "{\"sub\":\"42\",\"exp\":1.7e9}", "expiry"},
        {HS, H, "{\"sub\":\"42\",\"exp\":-1}", "expiry"},
        {HS, H, "{\"sub\":\"42\",\"exp\":0}", "expiry"},
        {HS, H, "{\"sub\":\"42\",\"exp\":\"1700000100\"}", "expiry"},
        {HS, H, "{\"sub\":\"42\",\"exp\":true}", "expiry"},
        {HS, H, "{\"sub\":\"42\",\"exp\":null}", "expiry"},
        {HS, H, "{\"sub\":\"42\",\"exp\":9223372036854775807}", "expiry"},
        {HS, H, "{\"sub\":\"42\",\"exp\":99999999999999999999}", "malformed"},
        {HS, H, "{\"sub\":\"42\",\"exp\":1,\"exp\":1700000100}", "malformed"},
        {HS, H, "{\"sub\":\"42\",\"exp\":1699999970}", "expired"}, /* now = exp + leeway */
        {HS, H, "{\"sub\":\"42\",\"exp\":1699999971}", NULL},
        {HS, H, "{\"sub\":\"42\",\"exp\":1700000100,\"nbf\":1700000031}", "not valid yet"},
        {HS, H, "{\"sub\":\"42\",\"exp\":1700000100,\"nbf\":1.5}", "not valid yet"},
        /* subject */
        {HS, H, "{\"exp\":1700000100}", "subject"},
        {HS, H, "{\"sub\":42,\"exp\":1700000100}", "subject"},
        {HS, H, "{\"sub\":\"0\",\"exp\":1700000100}", "subject"},
        {HS, H, "{\"sub\":\"042\",\"exp\":1700000100}", "subject"},
        {HS, H, "{\"sub\":\"-42\",\"exp\":1700000100}", "subject"},
        {HS, H, "{\"sub\":\" 42\",\"exp\":1700000100}", "subject"},
        {HS, H, "{\"sub\":\"42x\",\"exp\":1700000100}", "subject"},
        {HS, H, "{\"sub\":\"\",\"exp\":1700000100}", "subject"},
        {HS, H, "{\"sub\":\"9007199254740992\",\"exp\":1700000100}", "subject"},
        {HS, H, "{\"sub\":\"43\",\"sub\":\"42\",\"exp\":1700000100}", "malformed"},
        {HS, H, "[]", "malformed"},
        {HS, H, "", "malformed"},
        {HS, H, "{\"sub\":\"42\",\"exp\":1700000100}\n{}", "malformed"},
    };

    (void)state;
    check_rows(configure(true, false), rows, GF_COUNT(rows));
}

static void rs256_tokens_are_judged_strictly(void **state)
{
    static const struct row rows[] = {
        {RS, HR, C, NULL},
        {RS_WRONG_KEY, HR, C, "signature"},
        {HS, HR, C, "signature"},
        {RS, H, C, "algorithm"},
        {HS_WITH_PUBLIC_PEM, H, C, "algorithm"}, /* RS/HS confusion: the public key used as an HMAC secret */
        {HS_WITH_PUBLIC_PEM, HR, C, "signature"},
        {UNSIGNED, "{\"alg\":\"none\"}", C, "malformed"},
        {RS, HR, "{\"sub\":\"42\",\"exp\":1699999000}", "expired"},
    };

    (void)state;
    check_rows(configure(false, true), rows, GF_COUNT(rows));
}

static void with_two_keys_the_kid_decides(void **state)
{
    static const struct row rows[] = {
        {HS, "{\"alg\":\"HS256\",\"kid\":\"h1\"}", C, NULL},
        {RS, "{\"alg\":\"RS256\",\"kid\":\"r1\"}", C, NULL},
        {HS, H, C, "key id"},
        {HS, "{\"alg\":\"HS256\",\"kid\":\"h2\"}", C, "key id"},
        {HS, "{\"alg\":\"HS256\",\"kid\":\"\"}", C, "key id"},
        {HS, "{\"alg\":\"HS256\",\"kid\":\"../h1\"}", C, "key id"},
        {HS, "{\"alg\":\"HS256\",\"kid\":\"r1\"}", C, "algorithm"},
        {RS, "{\"alg\":\"RS256\",\"kid\":\"h1\"}", C, "algorithm"},
        {HS_WITH_PUBLIC_PEM, "{\"alg\":\"HS256\",\"kid\":\"r1\"}", C, "algorithm"},
    };
    struct gf_config *config = configure(true, true);
    struct gf_jwt *jwt = NULL;
    struct gf_error error;

    (void)state;
    assert_int_equal(gf_jwt_create(config, &jwt, &error), GF_FATAL); /* two keys without kids */
    assert_null(jwt);
    gf_copy(config->auth_hs256_kid, sizeof(config->auth_hs256_kid), "h1");
    gf_copy(config->auth_rs256_kid, sizeof(config->auth_rs256_kid), "h1");
    assert_int_equal(gf_jwt_create(config, &jwt, &error), GF_FATAL);
    gf_copy(config->auth_rs256_kid, sizeof(config->auth_rs256_kid), "r1");
    check_rows(config, rows, GF_COUNT(rows));
}

static void issuer_and_audience_are_checked_if_configured(void **state)
{
    static const struct row rows[] = {
        {HS, H, "{\"sub\":\"42\",\"exp\":1700000100,\"iss\":\"login\",\"aud\":\"gifts\"}", NULL},
        {HS, H, "{\"sub\":\"42\",\"exp\":1700000100,\"iss\":\"login\",\"aud\":[\"x\",\"gifts\"]}", NULL},
        {HS, H, C, "issuer"},
        {HS, H, "{\"sub\":\"42\",\"exp\":1700000100,\"iss\":\"Login\",\"aud\":\"gifts\"}", "issuer"},
        {HS, H, "{\"sub\":\"42\",\"exp\":1700000100,\"iss\":[\"login\"],\"aud\":\"gifts\"}", "issuer"},
        {HS, H, "{\"sub\":\"42\",\"exp\":1700000100,\"iss\":\"login\"}", "audience"},
        {HS, H, "{\"sub\":\"42\",\"exp\":1700000100,\"iss\":\"login\",\"aud\":[]}", "audience"},
        {HS, H, "{\"sub\":\"42\",\"exp\":1700000100,\"iss\":\"login\",\"aud\":\"gifts2\"}", "audience"},
        {HS, H, "{\"sub\":\"42\",\"exp\":1700000100,\"iss\":\"login\",\"aud\":{\"gifts\":\"gifts\"}}", "audience"},
    };
    struct gf_config *config = configure(true, false);

    (void)state;
    gf_copy(config->auth_issuer, sizeof(config->auth_issuer), "login");
    gf_copy(config->auth_audience, sizeof(config->auth_audience), "gifts");
    check_rows(config, rows, GF_COUNT(rows));
}

static void each_changed_byte_breaks_a_token(void **state)
{
    struct gf_jwt *jwt = open_jwt(configure(true, false));
    struct gf_jwt_claims claims;
    char token[GF_JWT_MAX * 2], longer[GF_JWT_MAX * 2];

    (void)state;
    make_token(HS, H, C, token);
    for (size_t i = 0; i < strlen(token); i++) {
        char kept = token[i];

        token[i] = kept == 'A' ? 'B' : 'A';
        if (verify(jwt, token, NOW, &claims, NULL) == GF_OK)
            fail_msg("accepted with byte %zu changed", i);
        token[i] = kept;
    }
    for (size_t len = 0; len < strlen(token); len++)
        assert_int_equal(gf_jwt_verify(jwt, token, len, NOW, &claims, NULL), GF_REJECT);
    static const char *const tails[] = {"=", ".", "A", " ", "\n", ".A"};
    for (size_t i = 0; i < GF_COUNT(tails); i++) {
        snprintf(longer, sizeof(longer), "%s%s", token, tails[i]);
        assert_int_equal(verify(jwt, longer, NOW, &claims, NULL), GF_REJECT);
    }
    assert_int_equal(verify(jwt, "..", NOW, &claims, NULL), GF_REJECT);
    assert_int_equal(verify(jwt, token, NOW, &claims, NULL), GF_OK);
    gf_jwt_destroy(&jwt);
}

/* RFC 7515 A.1: key, header and claims with CR LF and spaces, signature as printed. Its claims have no sub: the signature
 * must be found right and the subject missing. */
static void rfc_7515_example_has_a_right_signature(void **state)
{
    static const char token[] = "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9."
                                "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ."
                                "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
    static const char key_text[] = "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow";
    struct gf_config *config = configure(false, false);
    struct gf_jwt_claims claims;
    struct gf_error error = {0};
    struct gf_jwt *jwt;
    char path[160];
    uint8_t key[64];
    size_t len = 0;

    (void)state;
    assert_true(gf_base64url_decode(key_text, strlen(key_text), key, sizeof(key), &len));
    snprintf(path, sizeof(path), "%s/rfc", folder);
    write_file(path, key, len);
    gf_copy(config->auth_hs256_secret_file, sizeof(config->auth_hs256_secret_file), path);
    jwt = open_jwt(config);
    assert_int_equal(verify(jwt, token, 1300819000, &claims, &error), GF_REJECT);
    assert_non_null(strstr(error.text, "subject"));
    gf_jwt_destroy(&jwt);
    unlink(path);
}

static void cached_tokens_do_not_outlive_their_expiry(void **state)
{
    struct gf_jwt *jwt = open_jwt(configure(true, false));
    struct gf_jwt_claims claims;
    struct gf_error error;
    char token[GF_JWT_MAX * 2];

    (void)state;
    make_token(HS, H, C, token);
    for (int i = 0; i < 3; i++)
        assert_int_equal(verify(jwt, token, NOW, &claims, NULL), GF_OK);
    assert_int_equal(verify(jwt, token, 1700000129, &claims, NULL), GF_OK);
    assert_int_equal(verify(jwt, token, 1700000130, &claims, &error), GF_REJECT);
    assert_non_null(strstr(error.text, "expired"));
    gf_jwt_destroy(&jwt);
}

static void more_tokens_than_the_cache_holds_all_verify(void **state)
{
    struct gf_jwt *jwt = open_jwt(configure(true, false));
    struct gf_jwt_claims claims;
    struct gf_error error;
    char token[GF_JWT_MAX];

    (void)state;
    for (int64_t user = 1; user <= 70000; user++) {
        assert_int_equal(gf_jwt_sign(jwt, user, NOW + 60, token, sizeof(token), &error), GF_OK);
        assert_int_equal(verify(jwt, token, NOW, &claims, NULL), GF_OK);
        assert_int_equal(claims.user_id, user);
        assert_int_equal(claims.expires_s, NOW + 60);
        assert_int_equal(verify(jwt, token, NOW, &claims, NULL), GF_OK); /* from the cache: still that user */
        assert_int_equal(claims.user_id, user);
    }
    gf_jwt_destroy(&jwt);
}

static void oversized_tokens_are_refused_unread(void **state)
{
    struct gf_jwt *jwt = open_jwt(configure(true, false));
    struct gf_jwt_claims claims = {0};
    struct gf_error error = {0};
    char padded[3500], token[GF_JWT_MAX * 2];

    (void)state;
    snprintf(padded, sizeof(padded), "{\"sub\":\"42\",\"exp\":1700000100,\"pad\":\"%02900d\"}", 0);
    make_token(HS, H, padded, token);
    assert_true(strlen(token) <= GF_JWT_MAX);
    assert_int_equal(verify(jwt, token, NOW, &claims, NULL), GF_OK);
    snprintf(padded, sizeof(padded), "{\"sub\":\"42\",\"exp\":1700000100,\"pad\":\"%03200d\"}", 0);
    make_token(HS, H, padded, token);
    assert_true(strlen(token) > GF_JWT_MAX);
    assert_int_equal(verify(jwt, token, NOW, &claims, &error), GF_REJECT);
    assert_non_null(strstr(error.text, "too long"));
    gf_jwt_destroy(&jwt);
}

static void our_own_tokens_carry_what_is_configured(void **state)
{
    struct gf_config *config = configure(true, true);
    struct gf_jwt_claims claims;
    struct gf_error error;
    struct gf_jwt *jwt;
    char token[GF_JWT_MAX];

    (void)state;
    gf_copy(config->auth_hs256_kid, sizeof(config->auth_hs256_kid), "h\"1");
    gf_copy(config->auth_rs256_kid, sizeof(config->auth_rs256_kid), "r1");
    gf_copy(config->auth_issuer, sizeof(config->auth_issuer), "login");
    gf_copy(config->auth_audience, sizeof(config->auth_audience), "gifts");
    jwt = open_jwt(config);
    assert_int_equal(gf_jwt_sign(jwt, 42, NOW + 60, token, sizeof(token), &error), GF_OK);
    assert_int_equal(verify(jwt, token, NOW, &claims, &error), GF_OK);
    assert_int_equal(claims.user_id, 42);
    assert_int_equal(gf_jwt_sign(jwt, 42, NOW + 60, token, 40, &error), GF_FATAL);
    gf_jwt_destroy(&jwt);
    jwt = open_jwt(configure(false, true)); /* no secret: cannot sign */
    assert_int_equal(gf_jwt_sign(jwt, 42, NOW + 60, token, sizeof(token), &error), GF_FATAL);
    gf_jwt_destroy(&jwt);
}

static void bad_keys_are_refused_at_start(void **state)
{
    struct gf_config *config = configure(false, false);
    struct gf_jwt *jwt = NULL;
    struct gf_error error;
    char path[160], pem[4096];
    EVP_PKEY *small = EVP_PKEY_Q_keygen(NULL, NULL, "RSA", (size_t)1024), *ec = EVP_PKEY_Q_keygen(NULL, NULL, "EC", "P-256");

    (void)state;
    snprintf(path, sizeof(path), "%s/bad", folder);
    assert_int_equal(gf_jwt_create(config, &jwt, &error), GF_FATAL); /* no key at all */
    gf_copy(config->auth_hs256_secret_file, sizeof(config->auth_hs256_secret_file), path);
    assert_int_not_equal(gf_jwt_create(config, &jwt, &error), GF_OK); /* no such file */
    gf_copy(config->auth_hs256_secret_file, sizeof(config->auth_hs256_secret_file), folder);
    assert_int_not_equal(gf_jwt_create(config, &jwt, &error), GF_OK); /* it can be opened, and not read */
    assert_non_null(strstr(error.text, strerror(EISDIR)));
    gf_copy(config->auth_hs256_secret_file, sizeof(config->auth_hs256_secret_file), path);
    write_file(path, "only 31 bytes, one too few....!", 31);
    assert_int_equal(gf_jwt_create(config, &jwt, &error), GF_FATAL);
    config = configure(false, true);
    gf_copy(config->auth_rs256_public_key_file, sizeof(config->auth_rs256_public_key_file), path);
    assert_int_equal(gf_jwt_create(config, &jwt, &error), GF_FATAL); /* not PEM */
    public_pem(small, pem, sizeof(pem));
    write_file(path, pem, strlen(pem));
    assert_int_equal(gf_jwt_create(config, &jwt, &error), GF_FATAL);
    public_pem(ec, pem, sizeof(pem));
    write_file(path, pem, strlen(pem));
    assert_int_equal(gf_jwt_create(config, &jwt, &error), GF_FATAL);
    assert_null(jwt);
    EVP_PKEY_free(small);
    EVP_PKEY_free(ec);
    unlink(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(digests_equal_the_published_vectors),
        cmocka_unit_test(digests_work_on_several_threads_at_once),
        cmocka_unit_test(constant_time_compare_compares),
        cmocka_unit_test(base64_equals_rfc_4648_and_rfc_6455),
        cmocka_unit_test(base64url_has_one_spelling),
        cmocka_unit_test(hs256_tokens_are_judged_strictly),
        cmocka_unit_test(rs256_tokens_are_judged_strictly),
        cmocka_unit_test(with_two_keys_the_kid_decides),
        cmocka_unit_test(issuer_and_audience_are_checked_if_configured),
        cmocka_unit_test(each_changed_byte_breaks_a_token),
        cmocka_unit_test(rfc_7515_example_has_a_right_signature),
        cmocka_unit_test(cached_tokens_do_not_outlive_their_expiry),
        cmocka_unit_test(more_tokens_than_the_cache_holds_all_verify),
        cmocka_unit_test(oversized_tokens_are_refused_unread),
        cmocka_unit_test(our_own_tokens_carry_what_is_configured),
        cmocka_unit_test(bad_keys_are_refused_at_start),
    };

    return cmocka_run_group_tests(tests, make_keys, drop_keys);
}
