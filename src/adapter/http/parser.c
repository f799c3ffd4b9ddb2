/* SPDX-License-Identifier: Apache-2.0 */
/* llhttp glue. Everything that two parsers could read differently is an error here, because a proxy in front of us may
 * read it the other way (request smuggling): RFC 9112 without any of its leniencies. After an error the connection is
 * never used again. */
#include "parser.h"

#include <string.h>
#include <strings.h>

static int refuse(struct http_parser *parser, int status, const char *code, const char *detail)
{
    parser->status = status;
    parser->code = code;
    parser->detail = detail;
    return -1;
}

static int malformed(struct http_parser *parser, const char *detail)
{
    return refuse(parser, 400, "malformed", detail);
}

static uint32_t offset(const struct http_parser *parser, const char *at)
{
    return (uint32_t)(at - parser->base);
}

static int on_method(llhttp_t *ll, const char *at, size_t len)
{
    struct http_parser *parser = ll->data;

    (void)len;
    if (!parser->started)
        parser->head_off = offset(parser, at);
    parser->started = true;
    return 0;
}

static int on_url(llhttp_t *ll, const char *at, size_t len)
{
    struct http_parser *parser = ll->data;

    if (parser->target_len == 0)
        parser->target_off = offset(parser, at);
    parser->target_len += (uint32_t)len;
    return 0;
}

static int on_header_field(llhttp_t *ll, const char *at, size_t len)
{
    struct http_parser *parser = ll->data;
    struct http_header *header;

    if (parser->state != IN_HEAD)
        return malformed(parser, "trailer fields are not accepted");
    if (parser->in_value || parser->header_count == 0) {
        if (parser->header_count == HTTP_HEADERS_MAX)
            return refuse(parser, 431, "headers_too_large", "too many header fields");
        header = &parser->headers[parser->header_count++];
        *header = (struct http_header){.name_off = offset(parser, at)};
        parser->in_value = false;
    }
    parser->headers[parser->header_count - 1].name_len += (uint32_t)len;
    return 0;
}

static int on_header_value(llhttp_t *ll, const char *at, size_t len)
{
    struct http_parser *parser = ll->data;
    struct http_header *header = &parser->headers[parser->header_count - 1];

    if (header->value_len == 0)
        header->value_off = offset(parser, at);
    header->value_len += (uint32_t)len;
    parser->in_value = true;
    return 0;
}

/* An empty value has no span, but its end is told. */
static int on_header_value_complete(llhttp_t *ll)
{
    struct http_parser *parser = ll->data;

    parser->in_value = true;
    return 0;
}

/* Every line of the head ends with CRLF, none is folded, no control bytes anywhere. */
static bool head_is_clean(const char *head, size_t len, size_t *head_len_r)
{
    size_t start = 0;

    for (size_t i = 0; i < len; i++) {
        unsigned char c = (unsigned char)head[i];

        if (c >= 0x20 && c != 0x7f)
            continue;
        if (c == '\t' && i > start)
            continue;
        if (c != '\r' || i + 1 == len || head[i + 1] != '\n')
            return false;
        if (i == start) { /* the empty line */
            *head_len_r = i + 2;
            return true;
        }
        i++;
        start = i + 1;
        if (start < len && (head[start] == ' ' || head[start] == '\t' || head[start] == ':'))
            return false; /* obs-fold; a field without a name */
    }
    return false;
}

/* llhttp takes any number of spaces for one, RTSP and ICE for HTTP, and a line without a version. (strncmp ends at the line's.) */
static bool request_line_is_exact(const struct http_parser *parser)
{
    const char *target = parser->base + parser->target_off;

    return target[-2] != ' ' && strncmp(target + parser->target_len, " HTTP/", 6) == 0;
}

static bool name_is(const struct http_parser *parser, const struct http_header *header, const char *name, size_t len)
{
    return header->name_len == len && strncasecmp(parser->base + header->name_off, name, len) == 0;
}

static bool value_is(const struct http_parser *parser, const struct http_header *header, const char *value)
{
    return header->value_len == strlen(value) &&
           strncasecmp(parser->base + header->value_off, value, header->value_len) == 0;
}

static bool is_decimal(const char *text, size_t len)
{
    for (size_t i = 0; i < len; i++)
        if (text[i] < '0' || text[i] > '9')
            return false;
    return len > 0 && len <= 15;
}

struct framing {
    int host, length, encoding, expect;
};

/* Looks at the fields that decide where a message ends; 0 or what refuse returned. */
static int check_header(struct http_parser *parser, struct http_header *header, struct framing *seen)
{
    const char *value = parser->base + header->value_off;
    char last = parser->base[header->name_off + header->name_len - 1];

    if (last == ' ' || last == '\t')
        return malformed(parser, "space before the colon of a header field");
    while (header->value_len > 0 && (value[header->value_len - 1] == ' ' || value[header->value_len - 1] == '\t'))
        header->value_len--;
    if (name_is(parser, header, "host", 4)) {
        seen->host++;
    } else if (name_is(parser, header, "content-length", 14)) {
        seen->length++;
        if (!is_decimal(value, header->value_len))
            return malformed(parser, "Content-Length is not a number");
    } else if (name_is(parser, header, "transfer-encoding", 17)) {
        seen->encoding++;
        if (!value_is(parser, header, "chunked"))
            return malformed(parser, "Transfer-Encoding may only be chunked");
    } else if (name_is(parser, header, "expect", 6)) {
        seen->expect++;
        if (!value_is(parser, header, "100-continue"))
            return refuse(parser, 417, "expectation_failed", "the only expectation served is 100-continue");
    }
    return 0;
}

static int check_framing(struct http_parser *parser, const struct framing *seen)
{
    bool http11 = parser->ll.http_minor == 1;

    if (seen->host > 1 || (http11 && seen->host == 0))
        return malformed(parser, "exactly one Host field is needed");
    if (seen->length + seen->encoding > 1)
        return malformed(parser, "ambiguous message length");
    if (seen->encoding > 0 && !http11)
        return malformed(parser, "Transfer-Encoding needs HTTP/1.1");
    if (seen->length > 0 && parser->ll.content_length > parser->body_max)
        return refuse(parser, 413, "body_too_large", "the request body is too large");
    parser->expect_continue = seen->expect > 0 && http11 && seen->length + seen->encoding > 0;
    return 0;
}

static enum gf_http_method method_of(const llhttp_t *ll)
{
    switch (ll->method) {
    case HTTP_GET:
    case HTTP_HEAD:
        return GF_HTTP_GET;
    case HTTP_POST:
        return GF_HTTP_POST;
    case HTTP_PUT:
        return GF_HTTP_PUT;
    case HTTP_DELETE:
        return GF_HTTP_DELETE;
    default:
        return GF_HTTP_OTHER;
    }
}

static int on_headers_complete(llhttp_t *ll)
{
    struct http_parser *parser = ll->data;
    struct framing seen = {0};
    size_t head_len;

    if (!head_is_clean(parser->base + parser->head_off, parser->avail, &head_len) || !request_line_is_exact(parser))
        return malformed(parser, "malformed request line or header field");
    if (head_len > parser->header_max)
        return refuse(parser, 431, "headers_too_large", "the request head is too large");
    if (ll->http_major != 1 || ll->http_minor > 1)
        return refuse(parser, 505, "version_not_supported", "only HTTP/1.0 and HTTP/1.1 are served");
    if (ll->method == HTTP_CONNECT)
        return refuse(parser, 501, "method_not_implemented", "this is not a proxy");
    if (parser->base[parser->target_off] != '/') /* absolute-form is for proxies; `*` has no meaning here */
        return malformed(parser, "the request target must begin with /");
    for (int i = 0; i < parser->header_count; i++)
        if (check_header(parser, &parser->headers[i], &seen) != 0)
            return -1;
    if (check_framing(parser, &seen) != 0)
        return -1;
    parser->method = method_of(ll);
    parser->head_only = ll->method == HTTP_HEAD;
    parser->upgrade = ll->upgrade != 0 && seen.length + seen.encoding == 0;
    ll->upgrade = 0; /* llhttp goes on as usual; the bytes after the head are handed over by the server */
    parser->keep_alive = llhttp_should_keep_alive(ll) != 0;
    parser->body_off = parser->head_off + (uint32_t)head_len;
    parser->body_len = 0;
    parser->state = IN_BODY;
    return 0;
}

static int on_body(llhttp_t *ll, const char *at, size_t len)
{
    struct http_parser *parser = ll->data;
    char *end = parser->base + parser->body_off + parser->body_len;

    if (len > parser->body_max - parser->body_len)
        return refuse(parser, 413, "body_too_large", "the request body is too large");
    if (at != end)
        memmove(end, at, len); /* chunked: over the chunk header that was read already */
    parser->body_len += len;
    return 0;
}

static int on_chunk_extension(llhttp_t *ll, const char *at, size_t len)
{
    (void)at;
    (void)len;
    return malformed(ll->data, "chunk extensions are not accepted");
}

static int on_message_complete(llhttp_t *ll)
{
    struct http_parser *parser = ll->data;

    parser->state = PARSED;
    return HPE_PAUSED;
}

static const llhttp_settings_t settings = {
    .on_method = on_method,
    .on_url = on_url,
    .on_header_field = on_header_field,
    .on_header_value = on_header_value,
    .on_header_value_complete = on_header_value_complete,
    .on_headers_complete = on_headers_complete,
    .on_body = on_body,
    .on_chunk_extension_name = on_chunk_extension,
    .on_chunk_extension_value = on_chunk_extension,
    .on_message_complete = on_message_complete,
};

void http_parser_begin(struct http_parser *parser)
{
    llhttp_init(&parser->ll, HTTP_REQUEST, &settings);
    parser->ll.data = parser;
    parser->state = IN_HEAD;
    parser->in_value = parser->started = parser->upgrade = parser->expect_continue = parser->head_only = false;
    parser->keep_alive = false;
    parser->target_len = 0;
    parser->body_len = 0;
    parser->header_count = 0;
    parser->status = 0;
}

/* A word of capitals is a method we do not know; anything else is no HTTP at all (TLS, say). */
static bool looks_like_method(const char *text, size_t len)
{
    size_t i = 0;

    while (i < len && ((text[i] >= 'A' && text[i] <= 'Z') || text[i] == '-'))
        i++;
    return i > 0 && i < len && text[i] == ' ';
}

static enum http_step fail(struct http_parser *parser, size_t len, llhttp_errno_t error)
{
    if (parser->status != 0)
        return HTTP_BAD;
    if (error == HPE_INVALID_METHOD && looks_like_method(parser->base + parser->head_off, len - parser->head_off))
        (void)refuse(parser, 501, "method_not_implemented", "the method is not known");
    else if (error == HPE_INVALID_VERSION || error == HPE_PAUSED_H2_UPGRADE)
        (void)refuse(parser, 505, "version_not_supported", "only HTTP/1.0 and HTTP/1.1 are served");
    else
        (void)malformed(parser, "malformed HTTP request");
    return HTTP_BAD;
}

enum http_step http_parse(struct http_parser *parser, char *base, size_t *len, size_t *parsed)
{
    llhttp_errno_t error;

    GF_ASSERT(*parsed <= *len && parser->state != PARSED);
    parser->base = base;
    if (!parser->started)
        parser->head_off = (uint32_t)*parsed;
    if (parser->state == IN_HEAD)
        parser->avail = *len - parser->head_off;
    error = llhttp_execute(&parser->ll, base + *parsed, *len - *parsed);
    if (parser->state == PARSED && error == HPE_PAUSED) {
        *parsed = (size_t)(llhttp_get_error_pos(&parser->ll) - base);
        return HTTP_COMPLETE;
    }
    if (error != HPE_OK)
        return fail(parser, *len, error);
    if (parser->state == IN_HEAD && *len > parser->header_max) {
        (void)refuse(parser, 431, "headers_too_large", "the request head is too large");
        return HTTP_BAD;
    }
    if (parser->state == IN_BODY)
        *len = parser->body_off + parser->body_len; /* chunk framing is consumed and its room free again */
    *parsed = *len;
    return HTTP_MORE;
}
