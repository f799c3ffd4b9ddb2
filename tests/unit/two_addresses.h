/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* A name with two addresses: /etc/hosts as the test program and its children alone see it. */
#include <netdb.h>
#include <netinet/in.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <unistd.h>

/* both.test is 127.0.0.1 and 127.0.0.2. False: no right to a namespace. Before any thread starts. */
static inline bool name_two_addresses(void)
{
    static const char text[] = "127.0.0.1 localhost both.test\n127.0.0.2 both.test\n";
    char path[] = "/tmp/gf-hosts-XXXXXX";
    int fd = mkstemp(path);
    bool done = fd >= 0 && write(fd, text, sizeof(text) - 1) == sizeof(text) - 1 &&
                unshare(geteuid() == 0 ? CLONE_NEWNS : CLONE_NEWUSER | CLONE_NEWNS) == 0 &&
                mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0 && mount(path, "/etc/hosts", NULL, MS_BIND, NULL) == 0;

    if (fd >= 0)
        close(fd);
    unlink(path);
    return done;
}

/* The address that the resolver lists first, the other one, and a port that is free at both: below the kernel's own, so that no outgoing
 * connection has it when the server starts. */
static inline bool two_addresses(char first_r[16], char other_r[16], char port_r[8])
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_family = AF_INET}, *list = NULL;
    struct sockaddr_in any = {.sin_family = AF_INET};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    bool done = false;

    for (int i = 0; !done && i < 1000; i++) {
        any.sin_port = htons((uint16_t)(10000 + (getpid() * 97 + i) % 10000));
        done = bind(fd, (struct sockaddr *)&any, sizeof(any)) == 0;
    }
    done = done && getaddrinfo("both.test", NULL, &hints, &list) == 0 &&
           getnameinfo(list->ai_addr, list->ai_addrlen, first_r, 16, NULL, 0, NI_NUMERICHOST) == 0;

    close(fd);
    freeaddrinfo(list);
    (void)snprintf(port_r, 8, "%d", ntohs(any.sin_port));
    (void)snprintf(other_r, 16, "127.0.0.%d", done && strcmp(first_r, "127.0.0.1") == 0 ? 2 : 1);
    return done;
}
