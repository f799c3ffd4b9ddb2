/* SPDX-License-Identifier: Apache-2.0 */
/* Bearer tokens: compact JWS with HS256 or RS256, verified strictly and cached.
 * Verified with EVP directly, not with libjwt 1.10, which cannot be made strict (tried): the last of doubled claims wins, a
 * real `exp` reads as 0, `crit` is ignored, `alg` is taken in any case, and the RSA key is parsed anew for each token. Here:
 * one key per algorithm, chosen by kid (or the only one); the header's alg must be that key's; doubled names, reals,
 * padding, foreign characters and second spellings are refused.
 * The cache is a table of 4-way sets keyed by the token's SHA-256: it cannot grow, and an entry is used only under the same
 * expiry rule that a fresh verification applies. Owns its keys. Not thread-safe: one per loop. Failure: REJECT with a
 * reason that names no secret. */
#include <jansson.h>
#include <openssl/core_names.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "gf/buf.h"
#include "gf/crypto.h"
#include "gf/num.h"

#define LEEWAY_S 30
#define SECRET_MIN 32
#define SECRET_MAX 1024
#define RSA_BITS_MIN 2048
#define RSA_BITS_MAX 8192
#define PEM_MAX 16384
#define HMAC_BYTES 32
#define CACHE_SETS 16384
#define CACHE_WAYS 4

struct entry { /* expires_s == 0: empty */
    uint8_t digest[32];
    struct gf_jwt_claims claims;
};

struct gf_jwt {
    EVP_MAC_CTX *hmac;  /* NULL: no HS256 key; otherwise keyed */
    EVP_PKEY *rsa;      /* NULL: no RS256 key */
    EVP_MD *sha256;
    EVP_MD_CTX *digest;
    const struct gf_config *config;
    struct entry (*cache)[CACHE_WAYS];
};

struct part {
    const char *text;
    size_t len;
};

static enum gf_class refuse(struct gf_error *error_r, const char *reason)
{
    return gf_fail(error_r, GF_REJECT, 0, "%s", reason);
}

/* ---- keys ---- */

static enum gf_class load_secret(struct gf_jwt *jwt, const char *path, struct gf_error *error_r)
{
    char secret[SECRET_MAX];
    char name[] = "SHA256";
    OSSL_PARAM params[2] = {OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_DIGEST, name, 0), OSSL_PARAM_construct_end()};
    EVP_MAC *mac;
    size_t len = 0;
    int keyed;
    enum gf_class class = gf_config_secret(path, secret, sizeof(secret), &len, error_r);

    if (class != GF_OK)
        return class;
    if (len < SECRET_MIN) {
        OPENSSL_cleanse(secret, sizeof(secret));
        return gf_fail(error_r, GF_FATAL, 0, "%s: an HS256 secret needs at least %d bytes", path, SECRET_MIN);
    }
    mac = EVP_MAC_fetch(NULL, "HMAC", NULL);
    GF_ASSERT(mac);
    jwt->hmac = EVP_MAC_CTX_new(mac);
    EVP_MAC_free(mac); /* the context holds its own reference */
    GF_ASSERT(jwt->hmac);
    keyed = EVP_MAC_init(jwt->hmac, (const unsigned char *)secret, len, params);
    OPENSSL_cleanse(secret, sizeof(secret));
    return keyed ? GF_OK : gf_fail(error_r, GF_FATAL, 0, "%s: OpenSSL refuses the HS256 secret", path);
}

static enum gf_class load_rsa(struct gf_jwt *jwt, const char *path, struct gf_error *error_r)
{
    char pem[PEM_MAX];
    size_t len = 0;
    BIO *bio;
    int bits;
    enum gf_class class = gf_config_secret(path, pem, sizeof(pem), &len, error_r);

    if (class != GF_OK)
        return class;
    bio = BIO_new_mem_buf(pem, (int)len);
    GF_ASSERT(bio);
    jwt->rsa = PEM_read_bio_PUBKEY(bio, NULL, NULL, NULL);
    BIO_free(bio);
    if (!jwt->rsa || !EVP_PKEY_is_a(jwt->rsa, "RSA")) {
        ERR_clear_error();
        return gf_fail(error_r, GF_FATAL, 0, "%s: not an RSA public key in PEM", path);
    }
    bits = EVP_PKEY_get_bits(jwt->rsa);
    if (bits < RSA_BITS_MIN || bits > RSA_BITS_MAX)
        return gf_fail(error_r, GF_FATAL, 0, "%s: RSA key of %d bits, need %d to %d", path, bits, RSA_BITS_MIN, RSA_BITS_MAX);
    return GF_OK;
}

static enum gf_class load_keys(struct gf_jwt *jwt, const struct gf_config *config, struct gf_error *error_r)
{
    enum gf_class class = GF_OK;

    if (config->auth_hs256_secret_file[0])
        class = load_secret(jwt, config->auth_hs256_secret_file, error_r);
    if (class == GF_OK && config->auth_rs256_public_key_file[0])
        class = load_rsa(jwt, config->auth_rs256_public_key_file, error_r);
    if (class != GF_OK)
        return class;
    if (!jwt->hmac && !jwt->rsa)
        return gf_fail(error_r, GF_FATAL, 0, "no token key: set auth.hs256_secret_file or auth.rs256_public_key_file");
    if (jwt->hmac && jwt->rsa &&
        (!config->auth_hs256_kid[0] || !config->auth_rs256_kid[0] ||
         strcmp(config->auth_hs256_kid, config->auth_rs256_kid) == 0))
        return gf_fail(error_r, GF_FATAL, 0, "two token keys need two different kids (auth.hs256_kid, auth.rs256_kid)");
    return GF_OK;
}

enum gf_class gf_jwt_create(const struct gf_config *config, struct gf_jwt **jwt_r, struct gf_error *error_r)
{
    struct gf_jwt *jwt = gf_xcalloc(1, sizeof(*jwt));
    enum gf_class class;

    jwt->config = config;
    jwt->sha256 = EVP_MD_fetch(NULL, "SHA256", NULL);
    jwt->digest = EVP_MD_CTX_new();
    GF_ASSERT(jwt->sha256 && jwt->digest);
    jwt->cache = gf_xcalloc(CACHE_SETS, sizeof(*jwt->cache)); /* zero pages until used */
    class = load_keys(jwt, config, error_r);
    if (class != GF_OK) {
        gf_jwt_destroy(&jwt);
        return class;
    }
    *jwt_r = jwt;
    return GF_OK;
}

void gf_jwt_destroy(struct gf_jwt **jwt)
{
    if (!*jwt)
        return;
    EVP_MAC_CTX_free((*jwt)->hmac);
    EVP_PKEY_free((*jwt)->rsa);
    EVP_MD_CTX_free((*jwt)->digest);
    EVP_MD_free((*jwt)->sha256);
    free((*jwt)->cache);
    free(*jwt);
    *jwt = NULL;
}

/* ---- cache ---- */

static struct entry *cache_set(struct gf_jwt *jwt, const uint8_t digest[32])
{
    uint32_t index;

    memcpy(&index, digest, sizeof(index)); /* a digest is its own hash */
    return jwt->cache[index % CACHE_SETS];
}

static struct entry *cache_find(struct gf_jwt *jwt, const uint8_t digest[32])
{
    struct entry *set = cache_set(jwt, digest);

    for (int i = 0; i < CACHE_WAYS; i++)
        if (set[i].claims.expires_s != 0 && memcmp(set[i].digest, digest, 32) == 0)
            return &set[i];
    return NULL;
}

static void cache_store(struct gf_jwt *jwt, const uint8_t digest[32], const struct gf_jwt_claims *claims)
{
    struct entry *set = cache_set(jwt, digest), *victim = set;

    for (int i = 1; i < CACHE_WAYS; i++) /* empty first (0), then the one that expires first */
        if (set[i].claims.expires_s < victim->claims.expires_s)
            victim = &set[i];
    memcpy(victim->digest, digest, 32);
    victim->claims = *claims;
}

/* ---- header ---- */

enum alg { ALG_NONE, ALG_HS256, ALG_RS256 };

/* Exactly three non-empty parts. */
static bool split(const char *token, size_t len, struct part parts_r[3])
{
    const char *at = token, *end = token + len;

    for (int i = 0; i < 3; i++) {
        const char *stop = i < 2 ? memchr(at, '.', (size_t)(end - at)) : end;

        if (!stop || stop == at)
            return false;
        parts_r[i] = (struct part){at, (size_t)(stop - at)};
        at = stop + 1;
    }
    return memchr(parts_r[2].text, '.', parts_r[2].len) == NULL;
}

/* NULL: not base64url, or not one JSON object without doubled names. */
static json_t *decode_object(struct part part)
{
    char text[GF_JWT_MAX];
    size_t len = 0;
    json_t *object;

    if (!gf_base64url_decode(part.text, part.len, text, sizeof(text), &len))
        return NULL;
    object = json_loadb(text, len, JSON_REJECT_DUPLICATES, NULL);
    if (object && !json_is_object(object)) {
        json_decref(object);
        return NULL;
    }
    return object;
}

/* Length-aware: a string with an embedded NUL equals nothing. */
static bool json_text_is(const json_t *value, const char *text)
{
    return json_is_string(value) && json_string_length(value) == strlen(text) &&
           memcmp(json_string_value(value), text, strlen(text)) == 0;
}

static bool kid_matches(const json_t *kid, const char *configured, bool required)
{
    if (!kid)
        return !required;
    if (!json_is_string(kid))
        return false;
    return configured[0] ? json_text_is(kid, configured) : !required;
}

/* The algorithm of the key that kid (or being the only one) picks, if the header's alg is the same. */
static enum alg choose(const struct gf_jwt *jwt, const json_t *header, const char **reason_r)
{
    const json_t *alg = json_object_get(header, "alg"), *kid = json_object_get(header, "kid");
    const json_t *typ = json_object_get(header, "typ");
    bool two = jwt->hmac && jwt->rsa;

    *reason_r = "token header is not acceptable";
    if (json_object_get(header, "crit")) /* RFC 7515 4.1.11: we understand no extension */
        return ALG_NONE;
    if (typ && (!json_is_string(typ) || strcasecmp(json_string_value(typ), "JWT") != 0))
        return ALG_NONE;
    *reason_r = "token key id is missing or unknown";
    bool hs = jwt->hmac && kid_matches(kid, jwt->config->auth_hs256_kid, two);
    bool rs = jwt->rsa && kid_matches(kid, jwt->config->auth_rs256_kid, two);
    if (!hs && !rs)
        return ALG_NONE;
    *reason_r = "token algorithm is not the key's";
    if (hs)
        return json_text_is(alg, "HS256") ? ALG_HS256 : ALG_NONE;
    return json_text_is(alg, "RS256") ? ALG_RS256 : ALG_NONE;
}

/* ---- signature ---- */

static void hmac_sign(struct gf_jwt *jwt, const char *text, size_t len, uint8_t mac_r[HMAC_BYTES])
{
    size_t out = 0;
    int ok = EVP_MAC_init(jwt->hmac, NULL, 0, NULL) && /* same key again */
             EVP_MAC_update(jwt->hmac, (const unsigned char *)text, len) && EVP_MAC_final(jwt->hmac, mac_r, &out, HMAC_BYTES);

    GF_ASSERT(ok && out == HMAC_BYTES);
}

static bool rsa_verify(struct gf_jwt *jwt, const char *text, size_t len, const uint8_t *signature, size_t signature_len)
{
    EVP_PKEY_CTX *key_ctx = NULL; /* owned by jwt->digest; PKCS#1 v1.5 is the default padding */
    int ok = EVP_DigestVerifyInit(jwt->digest, &key_ctx, jwt->sha256, NULL, jwt->rsa);

    GF_ASSERT(ok == 1);
    ok = EVP_DigestVerify(jwt->digest, signature, signature_len, (const unsigned char *)text, len);
    EVP_MD_CTX_reset(jwt->digest);
    ERR_clear_error(); /* a wrong signature leaves entries in the thread's queue */
    return ok == 1;
}

static bool signature_ok(struct gf_jwt *jwt, enum alg alg, const char *token, const struct part parts[3])
{
    uint8_t signature[RSA_BITS_MAX / 8], mac[HMAC_BYTES];
    size_t signature_len = 0, signed_len = parts[0].len + 1 + parts[1].len;

    if (!gf_base64url_decode(parts[2].text, parts[2].len, signature, sizeof(signature), &signature_len))
        return false;
    if (alg == ALG_RS256)
        return rsa_verify(jwt, token, signed_len, signature, signature_len);
    GF_ASSERT(alg == ALG_HS256);
    hmac_sign(jwt, token, signed_len, mac);
    return signature_len == HMAC_BYTES && gf_equal_constant_time(signature, mac, HMAC_BYTES);
}

/* ---- claims ---- */

static bool audience_ok(const json_t *aud, const char *wanted)
{
    if (json_is_string(aud))
        return json_text_is(aud, wanted);
    for (size_t i = 0; i < json_array_size(aud); i++)
        if (json_text_is(json_array_get(aud, i), wanted))
            return true;
    return false;
}

static const char *read_claims(const struct gf_config *config, const json_t *claims, int64_t now_s,
                               struct gf_jwt_claims *claims_r)
{
    const json_t *sub = json_object_get(claims, "sub"), *exp = json_object_get(claims, "exp");
    const json_t *nbf = json_object_get(claims, "nbf");

    if (!json_is_string(sub) || !gf_num_parse_i64(json_string_value(sub), json_string_length(sub), 1, GF_ID_MAX,
                                                  &claims_r->user_id))
        return "token subject is not a user id";
    if (!json_is_integer(exp) || json_integer_value(exp) <= 0 || json_integer_value(exp) > GF_ID_MAX)
        return "token expiry is missing or not a positive integer";
    claims_r->expires_s = json_integer_value(exp);
    if (nbf && (!json_is_integer(nbf) || json_integer_value(nbf) > GF_ID_MAX ||
                json_integer_value(nbf) > now_s + LEEWAY_S))
        return "token is not valid yet";
    if (config->auth_issuer[0] && !json_text_is(json_object_get(claims, "iss"), config->auth_issuer))
        return "token issuer is not accepted";
    if (config->auth_audience[0] && !audience_ok(json_object_get(claims, "aud"), config->auth_audience))
        return "token audience is not accepted";
    return NULL;
}

static bool expired(const struct gf_jwt_claims *claims, int64_t now_s) { return now_s >= claims->expires_s + LEEWAY_S; }

/* NULL: good. */
static const char *verify_fresh(struct gf_jwt *jwt, struct part token, int64_t now_s, struct gf_jwt_claims *claims_r)
{
    json_t *header = NULL, *claims = NULL;
    struct part parts[3];
    const char *reason = "token is malformed";
    enum alg alg;

    if (!split(token.text, token.len, parts))
        goto out;
    header = decode_object(parts[0]);
    if (!header)
        goto out;
    alg = choose(jwt, header, &reason);
    if (alg == ALG_NONE)
        goto out;
    reason = "token signature is wrong";
    if (!signature_ok(jwt, alg, token.text, parts))
        goto out;
    reason = "token claims are malformed";
    claims = decode_object(parts[1]); /* only after the signature: unsigned claims are never read */
    if (!claims)
        goto out;
    reason = read_claims(jwt->config, claims, now_s, claims_r);
out:
    json_decref(header);
    json_decref(claims);
    return reason;
}

enum gf_class gf_jwt_verify(struct gf_jwt *jwt, const char *token, size_t len, int64_t now_s, struct gf_jwt_claims *claims_r,
                            struct gf_error *error_r)
{
    struct gf_jwt_claims claims = {0};
    const struct entry *entry;
    const char *reason;
    uint8_t digest[32];

    if (len == 0 || len > GF_JWT_MAX)
        return refuse(error_r, len ? "token is too long" : "token is missing");
    gf_sha256(token, len, digest);
    entry = cache_find(jwt, digest);
    if (entry) {
        claims = entry->claims;
    } else {
        reason = verify_fresh(jwt, (struct part){token, len}, now_s, &claims);
        if (reason)
            return refuse(error_r, reason);
    }
    if (expired(&claims, now_s))
        return refuse(error_r, "token has expired");
    if (!entry)
        cache_store(jwt, digest, &claims);
    *claims_r = claims;
    return GF_OK;
}

/* ---- signing ---- */

static void add_claim(struct gf_buf *out, const char *name, const char *value)
{
    if (!value[0])
        return;
    gf_buf_addf(out, ",\"%s\":", name);
    gf_buf_add_json(out, value, strlen(value));
}

static void add_part(struct gf_buf *out, const void *bytes, size_t len)
{
    char *text = gf_buf_reserve(out, GF_BASE64_SIZE(len));

    if (text)
        out->len += gf_base64url_encode(bytes, len, text);
}

enum gf_class gf_jwt_sign(struct gf_jwt *jwt, int64_t user_id, int64_t expires_s, char *text_r, size_t size,
                          struct gf_error *error_r)
{
    struct gf_buf json, token;
    uint8_t mac[HMAC_BYTES];
    enum gf_class class = GF_OK;

    if (!jwt->hmac)
        return gf_fail(error_r, GF_FATAL, 0, "auth.hs256_secret_file is not set: cannot sign tokens");
    GF_ASSERT(gf_id_valid(user_id) && expires_s > 0);
    gf_buf_init(&json, GF_JWT_MAX);
    gf_buf_init(&token, GF_JWT_MAX);
    gf_buf_adds(&json, "{\"alg\":\"HS256\",\"typ\":\"JWT\"");
    add_claim(&json, "kid", jwt->config->auth_hs256_kid);
    gf_buf_addc(&json, '}');
    add_part(&token, json.data, json.len);
    gf_buf_addc(&token, '.');
    gf_buf_reset(&json);
    gf_buf_addf(&json, "{\"sub\":\"%lld\",\"exp\":%lld", (long long)user_id, (long long)expires_s);
    add_claim(&json, "iss", jwt->config->auth_issuer);
    add_claim(&json, "aud", jwt->config->auth_audience);
    gf_buf_addc(&json, '}');
    add_part(&token, json.data, json.len);
    hmac_sign(jwt, token.data, token.len, mac);
    gf_buf_addc(&token, '.');
    add_part(&token, mac, sizeof(mac));
    if (!gf_buf_ok(&json) || !gf_buf_ok(&token) || token.len >= size)
        class = gf_fail(error_r, GF_FATAL, 0, "token does not fit");
    else
        memcpy(text_r, token.data, token.len + 1);
    gf_buf_free(&json);
    gf_buf_free(&token);
    return class;
}
