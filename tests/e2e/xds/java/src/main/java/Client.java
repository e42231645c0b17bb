import io.grpc.CallOptions;
import io.grpc.ChannelCredentials;
import io.grpc.ClientInterceptors;
import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.ManagedChannel;
import io.grpc.Metadata;
import io.grpc.MethodDescriptor;
import io.grpc.StatusRuntimeException;
import io.grpc.stub.ClientCalls;
import io.grpc.stub.MetadataUtils;
import io.grpc.xds.XdsChannelCredentials;
import java.io.BufferedReader;
import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.InputStream;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.concurrent.TimeUnit;

/**
 * A stock gRPC client (grpc-java) that calls Echo as it is told on stdin, and answers each word with a line of JSON: {@code Client TARGET [--secure]}.
 *
 * <p>The words are those of client.py. It has no generated code and knows nothing of weft: a request is written by hand, and of an answer the field
 * {@code instance} is read.
 */
public final class Client {
  private static final MethodDescriptor.Marshaller<byte[]> RAW =
      new MethodDescriptor.Marshaller<>() {
        @Override
        public InputStream stream(byte[] value) {
          return new ByteArrayInputStream(value);
        }

        @Override
        public byte[] parse(InputStream stream) {
          try {
            return stream.readAllBytes();
          } catch (IOException error) {
            throw new IllegalStateException(error);
          }
        }
      };

  private static final MethodDescriptor<byte[], byte[]> UNARY =
      MethodDescriptor.newBuilder(RAW, RAW)
          .setType(MethodDescriptor.MethodType.UNARY)
          .setFullMethodName("weft.testkit.v1.Echo/Unary")
          .build();

  /** What came of calls: who answered how often, what failed how. */
  private static final class Tally {
    private final Map<String, Integer> answered = new TreeMap<>();
    private final Map<String, Integer> failed = new TreeMap<>();

    synchronized void count(Map<String, Integer> of, String key) {
      of.merge(key, 1, Integer::sum);
    }

    synchronized void tell() {
      System.out.println("{\"answered\": " + json(answered) + ", \"failed\": " + json(failed) + "}");
      System.out.flush();
    }

    private static String json(Map<String, Integer> counts) {
      List<String> entries = new ArrayList<>();
      counts.forEach((key, count) -> entries.add(quoted(key) + ": " + count));
      return "{" + String.join(", ", entries) + "}";
    }

    private static String quoted(String text) {
      StringBuilder quoted = new StringBuilder("\"");
      for (char c : text.toCharArray()) {
        quoted.append(c == '"' || c == '\\' ? "\\" + c : c < ' ' ? " " : String.valueOf(c));
      }
      return quoted.append('"').toString();
    }
  }

  private static byte[] request(int fail, int delay) {
    ByteArrayOutputStream message = new ByteArrayOutputStream();
    message.writeBytes(new byte[] {0x0a, 1, 'x'});
    message.write(0x18);
    varint(message, delay);
    message.write(0x20);
    varint(message, fail);
    return message.toByteArray();
  }

  private static void varint(ByteArrayOutputStream message, int value) {
    while (value > 0x7f) {
      message.write(value & 0x7f | 0x80);
      value >>>= 7;
    }
    message.write(value);
  }

  /** Reads field 2. Lengths of this message's fields fit one byte, but for the metadata that follows. */
  private static String instance(byte[] message) {
    int at = 0;
    while (at + 1 < message.length && message[at] != 0x12) {
      at += 2 + message[at + 1];
    }
    if (at + 1 >= message.length) {
      return "";
    }
    return new String(message, at + 2, message[at + 1], StandardCharsets.UTF_8);
  }

  private static void call(ManagedChannel channel, Tally into, Map<String, String> options) {
    Metadata headers = new Metadata();
    options.forEach(
        (name, value) -> {
          if (!List.of("fail", "delay", "timeout").contains(name)) {
            headers.put(Metadata.Key.of(name, Metadata.ASCII_STRING_MARSHALLER), value);
          }
        });
    double timeout = Double.parseDouble(options.getOrDefault("timeout", "20"));
    CallOptions with = CallOptions.DEFAULT.withDeadlineAfter((long) (timeout * 1000), TimeUnit.MILLISECONDS);
    byte[] request =
        request(
            Integer.parseInt(options.getOrDefault("fail", "0")), Integer.parseInt(options.getOrDefault("delay", "0")));
    try {
      byte[] said =
          ClientCalls.blockingUnaryCall(
              ClientInterceptors.intercept(channel, MetadataUtils.newAttachHeadersInterceptor(headers)),
              UNARY,
              with,
              request);
      into.count(into.answered, instance(said));
    } catch (StatusRuntimeException error) {
      into.count(into.failed, error.getStatus().getCode() + " " + error.getStatus().getDescription());
    }
  }

  public static void main(String[] args) throws Exception {
    ChannelCredentials credentials = InsecureChannelCredentials.create();
    if (Arrays.asList(args).contains("--secure")) {
      credentials = XdsChannelCredentials.create(credentials);
    }
    ManagedChannel channel = Grpc.newChannelBuilder(args[0], credentials).build();
    Tally total = new Tally();
    boolean[] stopped = {false};
    List<Thread> running = new ArrayList<>();
    BufferedReader lines = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
    for (String line = lines.readLine(); line != null; line = lines.readLine()) {
      String[] words = line.trim().split(" ");
      switch (words[0]) {
        case "calls" -> {
          Map<String, String> options = new TreeMap<>();
          for (String option : Arrays.asList(words).subList(2, words.length)) {
            String[] pair = option.split("=", 2);
            options.put(pair[0], pair[1]);
          }
          Tally counted = new Tally();
          for (int n = 0; n < Integer.parseInt(words[1]); n++) {
            call(channel, counted, options);
          }
          counted.tell();
        }
        case "start" -> {
          for (int n = 0; n < 4; n++) {
            Thread thread =
                new Thread(
                    () -> {
                      while (true) {
                        synchronized (stopped) {
                          if (stopped[0]) {
                            return;
                          }
                        }
                        call(channel, total, Map.of());
                      }
                    });
            running.add(thread);
            thread.start();
          }
          new Tally().tell();
        }
        case "stop" -> {
          synchronized (stopped) {
            stopped[0] = true;
          }
          for (Thread thread : running) {
            thread.join();
          }
          total.tell();
        }
        case "tell" -> total.tell();
        default -> throw new IllegalArgumentException(line);
      }
    }
    channel.shutdownNow().awaitTermination(5, TimeUnit.SECONDS);
    System.exit(0);
  }
}
