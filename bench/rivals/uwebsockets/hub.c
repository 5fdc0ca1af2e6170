/* A hub on uWebSockets, through the C interface that the socketify package compiles in: what a
 * client of /ws/... sends is published to all of them, /echo answers. The declarations are those of
 * socketify 0.0.31, as far as they are used here. */

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

struct us_socket_context_options_t {
    const char *key_file_name;
    const char *cert_file_name;
    const char *passphrase;
    const char *dh_params_file_name;
    const char *ca_file_name;
    const char *ssl_ciphers;
    int ssl_prefer_low_memory_usage;
};

struct us_listen_socket_t;
typedef struct uws_app_s uws_app_t;
typedef struct uws_websocket_s uws_websocket_t;
typedef int uws_opcode_t;

typedef struct {
    int port;
    const char *host;
    int options;
} uws_app_listen_config_t;

typedef void (*handler_t)(uws_websocket_t *, void *);
typedef void (*message_handler_t)(uws_websocket_t *, const char *, size_t, uws_opcode_t, void *);

typedef struct {
    int compression;
    unsigned int maxPayloadLength;
    unsigned short idleTimeout;
    unsigned int maxBackpressure;
    bool closeOnBackpressureLimit;
    bool resetIdleTimeoutOnSend;
    bool sendPingsAutomatically;
    unsigned short maxLifetime;
    void *upgrade;
    handler_t open;
    message_handler_t message;
    handler_t drain;
    void *ping;
    void *pong;
    void *close;
    void *subscription;
} uws_socket_behavior_t;

typedef void (*listen_handler_t)(struct us_listen_socket_t *, uws_app_listen_config_t, void *);

uws_app_t *uws_create_app(int ssl, struct us_socket_context_options_t options);
void uws_ws(int ssl, uws_app_t *app, const char *pattern, uws_socket_behavior_t behavior,
            void *user_data);
void uws_app_listen_with_config(int ssl, uws_app_t *app, uws_app_listen_config_t config,
                                listen_handler_t handler, void *user_data);
void uws_app_run(int ssl, uws_app_t *app);
bool uws_ws_subscribe(int ssl, uws_websocket_t *ws, const char *topic, size_t length);
bool uws_publish(int ssl, uws_app_t *app, const char *topic, size_t topic_length,
                 const char *message, size_t message_length, uws_opcode_t opcode, bool compress);
int uws_ws_send(int ssl, uws_websocket_t *ws, const char *message, size_t length,
                uws_opcode_t opcode);

#define PLAIN 0
#define TOPIC "bench", 5

static void subscribe(uws_websocket_t *ws, void *app) {
    (void)app;
    uws_ws_subscribe(PLAIN, ws, TOPIC);
}

static void publish(uws_websocket_t *ws, const char *message, size_t length, uws_opcode_t opcode,
                    void *app) {
    (void)ws;
    uws_publish(PLAIN, app, TOPIC, message, length, opcode, false);
}

static void echo(uws_websocket_t *ws, const char *message, size_t length, uws_opcode_t opcode,
                 void *app) {
    (void)app;
    uws_ws_send(PLAIN, ws, message, length, opcode);
}

static void listening(struct us_listen_socket_t *socket, uws_app_listen_config_t config,
                      void *user_data) {
    (void)user_data;
    if (socket == NULL) {
        fprintf(stderr, "port %d cannot be listened on\n", config.port);
        exit(1);
    }
}

int main(int count, char **arguments) {
    if (count != 2) {
        fprintf(stderr, "say which port to listen on\n");
        return 2;
    }
    uws_app_listen_config_t config = {
        .port = atoi(arguments[1]), .host = "127.0.0.1", .options = 0};
    struct us_socket_context_options_t no_tls = {0};
    uws_app_t *app = uws_create_app(PLAIN, no_tls);
    uws_socket_behavior_t behavior = {
        .maxPayloadLength = 64 * 1024,
        .idleTimeout = 32,
        .maxBackpressure = 256 * 1024,
        .closeOnBackpressureLimit = true,
        .sendPingsAutomatically = true,
        .open = subscribe,
        .message = publish,
    };
    uws_ws(PLAIN, app, "/ws/*", behavior, app);
    behavior.open = NULL;
    behavior.message = echo;
    uws_ws(PLAIN, app, "/echo", behavior, app);
    uws_app_listen_with_config(PLAIN, app, config, listening, NULL);
    uws_app_run(PLAIN, app);
    return 0;
}
