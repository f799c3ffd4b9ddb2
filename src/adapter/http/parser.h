/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* One HTTP request out of a connection's buffer: llhttp for the grammar, our own rules on top for what it lets through.
 * Remembers offsets, never pointers, so that the buffer may move between calls. Pure: no I/O, no allocation. */
#include <llhttp.h>

#include "gf/http.h"

#define HTTP_HEADERS_MAX 64

struct http_header {
    uint32_t name_off, value_off;
    uint32_t name_len, value_len;
};

enum http_state { IN_HEAD, IN_BODY, PARSED };
enum http_step { HTTP_MORE, HTTP_COMPLETE, HTTP_BAD };

struct http_parser {
    llhttp_t ll;
    char *base; /* start of the request, during http_parse only */
    size_t header_max, body_max;
    enum http_state state;
    bool in_value, started, upgrade, expect_continue, keep_alive, head_only;
    enum gf_http_method method;
    uint32_t head_off; /* first byte of the method: empty lines before it are skipped */
    uint32_t target_off, target_len;
    uint32_t body_off;
    size_t body_len;
    size_t avail; /* bytes from head_off on that are here, during http_parse only */
    int header_count;
    struct http_header headers[HTTP_HEADERS_MAX];
    int status;         /* HTTP_BAD: the answer */
    const char *code;   /* its stable code */
    const char *detail; /* and text */
};

/* Ready for the next request of the connection. */
void http_parser_begin(struct http_parser *parser);
/* base[0..*len) is all that has come since the request's first byte; base[0..*parsed) was given before. Moves *parsed
 * forward; with HTTP_COMPLETE the bytes from *parsed on belong to the next request. A chunked body is put together in
 * place, which may lower *len. */
enum http_step http_parse(struct http_parser *parser, char *base, size_t *len, size_t *parsed);
