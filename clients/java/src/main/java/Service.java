import io.grpc.CallOptions;
import io.grpc.ClientInterceptors;
import io.grpc.Context;
import io.grpc.Contexts;
import io.grpc.Grpc;
import io.grpc.InsecureServerCredentials;
import io.grpc.ManagedChannel;
import io.grpc.Metadata;
import io.grpc.Server;
import io.grpc.ServerCall;
import io.grpc.ServerCallHandler;
import io.grpc.ServerInterceptor;
import io.grpc.Status;
import io.grpc.health.v1.HealthCheckResponse.ServingStatus;
import io.grpc.netty.shaded.io.grpc.netty.NettyServerBuilder;
import io.grpc.protobuf.services.HealthStatusManager;
import io.grpc.protobuf.services.ProtoReflectionServiceV1;
import io.grpc.stub.ClientCalls;
import io.grpc.stub.MetadataUtils;
import io.grpc.stub.StreamObserver;
import java.io.IOException;
import java.net.InetSocketAddress;
import java.util.List;
import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.TimeUnit;
import shop.ring.v1.JavaGrpc;
import shop.ring.v1.Ring.Hop;
import shop.ring.v1.Ring.PassRequest;
import shop.ring.v1.Ring.PassResponse;

/**
 * A small service of the ring, with health and reflection, that knows nothing of weft but two variables.
 *
 * <p>It listens on 127.0.0.1:$PORT, as the sidecar beside it said, and calls others by WEFT_OUTBOUND. SIGTERM lets calls finish.
 */
public final class Service extends JavaGrpc.JavaImplBase {
  private static final int MOST_HOPS = 100;
  private static final int FINISH_SECONDS = 10;
  private static final String LIBRARY = "grpc-java " + Grpc.class.getPackage().getImplementationVersion();
  private static final Metadata.Key<String> TRACEPARENT = key("traceparent");

  /** What a service hands on with the calls it makes, so that they are one trace. */
  private static final List<Metadata.Key<String>> HANDED_ON = List.of(TRACEPARENT, key("tracestate"));

  private static final Context.Key<Metadata> TRACE = Context.key("trace");

  private final Map<String, ManagedChannel> channels = new ConcurrentHashMap<>();

  private static Metadata.Key<String> key(String name) {
    return Metadata.Key.of(name, Metadata.ASCII_STRING_MARSHALLER);
  }

  private static String env(String name, String otherwise) {
    return System.getenv().getOrDefault(name, otherwise);
  }

  @Override
  public void pass(PassRequest request, StreamObserver<PassResponse> answer) {
    if (request.getRouteCount() > MOST_HOPS) {
      refuse(answer, "route has " + request.getRouteCount() + " names, at most " + MOST_HOPS);
      return;
    }
    String parent = TRACE.get().get(TRACEPARENT);
    String[] parts = parent == null ? new String[0] : parent.split("-");
    Hop hop =
        Hop.newBuilder()
            .setService(env("WEFT_SERVICE", "java"))
            .setInstance(env("WEFT_INSTANCE", ""))
            .setLibrary(LIBRARY)
            .setTraceId(parts.length == 4 ? parts[1] : "")
            .build();
    PassResponse response = PassResponse.newBuilder().addHops(hop).build();
    if (request.getRouteCount() == 0) {
      answer.onNext(response);
      answer.onCompleted();
      return;
    }
    String next = request.getRoute(0);
    if (!Languages.PASS.containsKey(next)) {
      refuse(answer, next + " is not of the ring");
      return;
    }
    ask(next, request.getRouteList().subList(1, request.getRouteCount()), response, answer);
  }

  /** Passes on, in what is left of the time (which the library's context knows), and ends as the next one ends. */
  private void ask(String next, List<String> route, PassResponse soFar, StreamObserver<PassResponse> answer) {
    var headers = MetadataUtils.newAttachHeadersInterceptor(TRACE.get());
    var channel = ClientInterceptors.intercept(channels.computeIfAbsent(next, Channels::bySidecar), headers);
    ClientCalls.asyncUnaryCall(
        channel.newCall(Languages.PASS.get(next), CallOptions.DEFAULT),
        PassRequest.newBuilder().addAllRoute(route).build(),
        new StreamObserver<>() {
          @Override
          public void onNext(PassResponse rest) {
            answer.onNext(soFar.toBuilder().addAllHops(rest.getHopsList()).build());
          }

          @Override
          public void onError(Throwable error) {
            Status said = Status.fromThrowable(error);
            answer.onError(said.getCode().toStatus().withDescription(next + ": " + said.getDescription()).asRuntimeException());
          }

          @Override
          public void onCompleted() {
            answer.onCompleted();
          }
        });
  }

  private static void refuse(StreamObserver<PassResponse> answer, String why) {
    answer.onError(Status.INVALID_ARGUMENT.withDescription(why).asRuntimeException());
  }

  /** Keeps the trace of a call at hand while it is served. */
  private static final class Trace implements ServerInterceptor {
    @Override
    public <Q, R> ServerCall.Listener<Q> interceptCall(ServerCall<Q, R> call, Metadata headers, ServerCallHandler<Q, R> next) {
      Metadata trace = new Metadata();
      for (Metadata.Key<String> key : HANDED_ON) {
        Iterable<String> values = headers.getAll(key);
        if (values != null) {
          values.forEach(value -> trace.put(key, value));
        }
      }
      return Contexts.interceptCall(Context.current().withValue(TRACE, trace), call, headers, next);
    }
  }

  /** Serves until SIGTERM. */
  public static void main(String[] args) throws IOException, InterruptedException {
    HealthStatusManager health = new HealthStatusManager();
    health.setStatus(JavaGrpc.SERVICE_NAME, ServingStatus.SERVING);
    InetSocketAddress address = new InetSocketAddress("127.0.0.1", Integer.parseInt(System.getenv("PORT")));
    Server server =
        NettyServerBuilder.forAddress(address, InsecureServerCredentials.create())
            .intercept(new Trace())
            .addService(new Service())
            .addService(health.getHealthService())
            .addService(ProtoReflectionServiceV1.newInstance())
            .build()
            .start();
    Runtime.getRuntime().addShutdownHook(new Thread(() -> finish(server, health)));
    server.awaitTermination();
  }

  private static void finish(Server server, HealthStatusManager health) {
    health.enterTerminalState();
    try {
      server.shutdown().awaitTermination(FINISH_SECONDS, TimeUnit.SECONDS);
    } catch (InterruptedException interrupted) {
      Thread.currentThread().interrupt();
    }
  }
}
