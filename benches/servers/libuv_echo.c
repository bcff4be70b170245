/* A plain echo server on libuv.
 *
 * Usage: libuv_echo tcp|udp HOST PORT
 *
 * It writes what it has read at once. What the socket does not take is copied, and the connection is not
 * read until it has been sent.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <uv.h>

enum { BUFFER_SIZE = 64 * 1024, BACKLOG = 1024 };

/* All reads use the same buffer: a callback has written or copied its contents when it returns. */
static char buffer[BUFFER_SIZE];

/* The bytes that the socket did not take. */
struct pending {
    uv_write_t request;
    char bytes[];
};

static void check(int status, const char *what) {
    if (status < 0) {
        fprintf(stderr, "%s: %s\n", what, uv_strerror(status));
        exit(1);
    }
}

static void give_buffer(uv_handle_t *handle, size_t suggested, uv_buf_t *out) {
    (void)handle;
    (void)suggested;
    *out = uv_buf_init(buffer, sizeof buffer);
}

static void free_handle(uv_handle_t *handle) {
    free(handle);
}

static void close_stream(uv_stream_t *stream) {
    if (!uv_is_closing((uv_handle_t *)stream)) {
        uv_close((uv_handle_t *)stream, free_handle);
    }
}

static void on_read(uv_stream_t *stream, ssize_t count, const uv_buf_t *read);

static void on_written(uv_write_t *request, int status) {
    uv_stream_t *stream = request->handle;
    free(request->data);
    if (status < 0 || uv_read_start(stream, give_buffer, on_read) < 0) {
        close_stream(stream);
    }
}

static void write_later(uv_stream_t *stream, const char *bytes, size_t count) {
    struct pending *pending = malloc(sizeof *pending + count);
    if (pending == NULL) {
        close_stream(stream);
        return;
    }
    memcpy(pending->bytes, bytes, count);
    pending->request.data = pending;
    uv_buf_t rest = uv_buf_init(pending->bytes, (unsigned)count);
    uv_read_stop(stream);
    if (uv_write(&pending->request, stream, &rest, 1, on_written) < 0) {
        free(pending);
        close_stream(stream);
    }
}

static void on_read(uv_stream_t *stream, ssize_t count, const uv_buf_t *read) {
    if (count < 0) { /* the end of the stream, or an error */
        close_stream(stream);
        return;
    }
    if (count == 0) { /* EAGAIN */
        return;
    }
    uv_buf_t all = uv_buf_init(read->base, (unsigned)count);
    int written = uv_try_write(stream, &all, 1);
    if (written == UV_EAGAIN) {
        written = 0;
    }
    if (written < 0) {
        close_stream(stream);
    } else if (written < count) {
        write_later(stream, read->base + written, (size_t)(count - written));
    }
}

static void on_connection(uv_stream_t *listener, int status) {
    uv_tcp_t *connection = status < 0 ? NULL : malloc(sizeof *connection);
    if (connection == NULL) {
        return;
    }
    uv_tcp_init(listener->loop, connection);
    uv_stream_t *stream = (uv_stream_t *)connection;
    if (uv_accept(listener, stream) < 0 || uv_tcp_nodelay(connection, 1) < 0 ||
        uv_read_start(stream, give_buffer, on_read) < 0) {
        close_stream(stream);
    }
}

static void on_datagram(uv_udp_t *socket, ssize_t count, const uv_buf_t *datagram,
                        const struct sockaddr *peer, unsigned flags) {
    (void)flags;
    if (count >= 0 && peer != NULL) { /* without a peer, the socket is empty */
        uv_buf_t reply = uv_buf_init(datagram->base, (unsigned)count);
        uv_udp_try_send(socket, &reply, 1, peer);
    }
}

int main(int argc, char **argv) {
    if (argc != 4) {
        fprintf(stderr, "usage: libuv_echo tcp|udp HOST PORT\n");
        return 2;
    }
    uv_loop_t *loop = uv_default_loop();
    struct sockaddr_in address;
    check(uv_ip4_addr(argv[2], atoi(argv[3]), &address), "address");
    uv_tcp_t listener;
    uv_udp_t socket;
    if (strcmp(argv[1], "tcp") == 0) {
        check(uv_tcp_init(loop, &listener), "socket");
        check(uv_tcp_bind(&listener, (struct sockaddr *)&address, 0), "bind");
        check(uv_listen((uv_stream_t *)&listener, BACKLOG, on_connection), "listen");
    } else {
        check(uv_udp_init(loop, &socket), "socket");
        check(uv_udp_bind(&socket, (struct sockaddr *)&address, 0), "bind");
        check(uv_udp_recv_start(&socket, give_buffer, on_datagram), "receive");
    }
    return uv_run(loop, UV_RUN_DEFAULT);
}
