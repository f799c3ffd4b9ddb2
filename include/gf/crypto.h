/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* Digests, base64 and tokens (OpenSSL behind it, src/adapter/crypto). Digest functions cannot fail: an OpenSSL that has no
 * SHA-256 is a broken installation and ends the process. Threads: any, unless said otherwise. */
#include "gf/base.h"
#include "gf/config.h"

void gf_sha256(const void *bytes, size_t len, uint8_t digest_r[32]);
struct gf_sha256_ctx; /* streaming; one per thread, reused */
struct gf_sha256_ctx *gf_sha256_create(void);
void gf_sha256_begin(struct gf_sha256_ctx *ctx);
void gf_sha256_add(struct gf_sha256_ctx *ctx, const void *bytes, size_t len);
void gf_sha256_end(struct gf_sha256_ctx *ctx, uint8_t digest_r[32]);
void gf_sha256_destroy(struct gf_sha256_ctx **ctx);
void gf_sha1(const void *bytes, size_t len, uint8_t digest_r[20]); /* for the WebSocket accept key only */
bool gf_equal_constant_time(const void *a, const void *b, size_t len);

#define GF_BASE64_SIZE(len) (((len) + 2) / 3 * 4 + 1) /* text of len bytes, with NUL */
/* Padded base64 (RFC 4648 section 4); text_r holds GF_BASE64_SIZE(len). Returns the length of the text. */
size_t gf_base64_encode(const void *bytes, size_t len, char *text_r);
/* Unpadded base64url (section 5); text_r holds GF_BASE64_SIZE(len). */
size_t gf_base64url_encode(const void *bytes, size_t len, char *text_r);
/* Strict: alphabet only, no padding, no stray bits, so that one value has one text. false: not that, or more than size bytes. */
GF_NODISCARD bool gf_base64url_decode(const char *text, size_t len, void *bytes_r, size_t size, size_t *len_r);

/* Bearer tokens: HS256 or RS256, algorithm fixed per configured key; header alg must equal it; kid required when there is
 * more than one key; sub = decimal user id; exp required integer, leeway 30 s; at most 4 KiB. Verified tokens are cached
 * (bounded) until they expire. Not thread-safe: one per loop. */
struct gf_jwt;
#define GF_JWT_MAX 4096 /* bytes of a token */
struct gf_jwt_claims {
    int64_t user_id;
    int64_t expires_s;
};
GF_NODISCARD enum gf_class gf_jwt_create(const struct gf_config *config, struct gf_jwt **jwt_r, struct gf_error *error_r);
void gf_jwt_destroy(struct gf_jwt **jwt);
/* REJECT with a reason fit for the client (never the token). */
GF_NODISCARD enum gf_class gf_jwt_verify(struct gf_jwt *jwt, const char *token, size_t len, int64_t now_s,
                                         struct gf_jwt_claims *claims_r, struct gf_error *error_r);
/* Makes an HS256 token with the configured secret (load harness, tests); text_r must hold 4096 bytes. */
GF_NODISCARD enum gf_class gf_jwt_sign(struct gf_jwt *jwt, int64_t user_id, int64_t expires_s, char *text_r, size_t size,
                                       struct gf_error *error_r);
