/* SPDX-License-Identifier: Apache-2.0 */
/* Which handler, for whom: paths, tokens, the admin key, Idempotency-Key. Thread: the loop's. */
#include <string.h>
#include <strings.h>

#include "gf/clock.h"
#include "ingest.h"

static const struct gf_route api_routes[] = {
    {GF_HTTP_POST, "/v1/gifts", gf_gift_post, .late_auth = true},
    {GF_HTTP_GET, "/v1/gifts", gf_query_gifts, false},
    {GF_HTTP_GET, "/v1/wallet", gf_query_wallet, false},
    {GF_HTTP_GET, "/v1/wallet/trades", gf_query_trades, false},
    {GF_HTTP_GET, "/v1/requests/{}", gf_query_request, false},
    {GF_HTTP_OTHER, NULL, NULL, false},
};

/* One segment stands for each {}. */
static bool path_matches(struct gf_slice path, const char *pattern, struct gf_slice param_r[2])
{
    const char *at = path.ptr, *end = path.ptr + path.len;
    size_t params = 0;

    while (*pattern) {
        if (pattern[0] == '{') {
            const char *stop = at;

            while (stop < end && *stop != '/')
                stop++;
            if (stop == at || params == 2)
                return false;
            param_r[params++] = (struct gf_slice){at, (size_t)(stop - at)};
            at = stop;
            pattern += 2;
        } else if (at < end && *at == *pattern) {
            at++;
            pattern++;
        } else {
            return false;
        }
    }
    return at == end;
}

/* Answers 404 or 405 itself. */
static const struct gf_route *find_route(const struct gf_route *routes, struct gf_http_req *req,
                                         struct gf_slice param_r[2])
{
    struct gf_slice path = gf_http_path(req);
    bool known = false;

    for (; routes->pattern; routes++) {
        if (!path_matches(path, routes->pattern, param_r))
            continue;
        if (routes->method == gf_http_method(req))
            return routes;
        known = true;
    }
    gf_problem_respond(req, known ? GF_PROBLEM_METHOD_NOT_ALLOWED : GF_PROBLEM_NOT_FOUND, NULL);
    return NULL;
}

static bool unauthorized(struct gf_http_req *req, const char *detail)
{
    gf_problem_respond(req, GF_PROBLEM_UNAUTHORIZED, &(struct gf_problem_opts){.detail = detail});
    return false;
}

/* False: answered. */
static bool bearer(struct gf_http_req *req, struct gf_slice *token_r)
{
    int count;
    struct gf_slice header = gf_http_header(req, "authorization", &count);

    if (count == 0)
        return unauthorized(req, "Authorization: Bearer <token> is missing");
    if (count > 1)
        return unauthorized(req, "more than one Authorization header");
    if (header.len < 8 || strncasecmp(header.ptr, "Bearer ", 7) != 0)
        return unauthorized(req, "the authorization scheme must be Bearer");
    header.ptr += 7;
    header.len -= 7;
    while (header.len > 0 && header.ptr[0] == ' ') {
        header.ptr++;
        header.len--;
    }
    *token_r = header;
    return true;
}

bool gf_request_auth(struct gf_ingest *ingest, struct gf_http_req *req, int64_t *user_id_r)
{
    struct gf_jwt_claims claims;
    struct gf_error error;
    struct gf_slice token;

    if (!bearer(req, &token))
        return false;
    if (gf_jwt_verify(ingest->jwt, token.ptr, token.len, gf_clock_real_ms() / 1000, &claims, &error) != GF_OK)
        return unauthorized(req, error.text);
    *user_id_r = claims.user_id;
    return true;
}

static bool bad_key(struct gf_http_req *req, const char *detail)
{
    gf_problem_respond(req, GF_PROBLEM_MALFORMED, &(struct gf_problem_opts){.detail = detail});
    return false;
}

bool gf_request_key(struct gf_http_req *req, struct gf_uuid *id_r, bool *keyless_r)
{
    int count;
    struct gf_slice key = gf_http_header(req, "idempotency-key", &count);

    *keyless_r = count == 0;
    if (count > 1)
        return bad_key(req, "more than one Idempotency-Key");
    if (count == 0) {
        *id_r = gf_uuid_v7();
    } else {
        if (key.len >= 2 && key.ptr[0] == '"' && key.ptr[key.len - 1] == '"')
            key = (struct gf_slice){key.ptr + 1, key.len - 2};
        if (!gf_uuid_parse(key.ptr, key.len, id_r))
            return bad_key(req, "Idempotency-Key must be a UUID, and not the nil one");
        if (gf_uuid_version(id_r) == 8)
            return bad_key(req, "Idempotency-Key must not be a UUID of version 8");
    }
    gf_http_set_request_id(req, id_r);
    return true;
}

void gf_route_api(struct gf_http_req *req, void *ctx)
{
    struct gf_call call = {.ingest = ctx, .req = req};
    const struct gf_route *route = find_route(api_routes, req, call.param);

    if (!route)
        return;
    if (call.ingest->closing) {
        gf_unavailable_respond(req, "the service is stopping", NULL);
        return;
    }
    if (!route->late_auth && !gf_request_auth(call.ingest, req, &call.user_id))
        return;
    route->run(&call);
}

void gf_route_admin(struct gf_http_req *req, void *ctx)
{
    struct gf_call call = {.ingest = ctx, .req = req};
    const struct gf_route *route;
    struct gf_slice key;

    if (!bearer(req, &key))
        return;
    if (key.len != call.ingest->admin_key_len ||
        !gf_equal_constant_time(key.ptr, call.ingest->admin_key, call.ingest->admin_key_len)) {
        (void)unauthorized(req, "the admin key is wrong");
        return;
    }
    route = find_route(gf_admin_routes, req, call.param);
    if (!route)
        return;
    if (call.ingest->closing) {
        gf_unavailable_respond(req, "the service is stopping", NULL);
        return;
    }
    route->run(&call);
}
