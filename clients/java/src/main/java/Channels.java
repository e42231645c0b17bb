import io.grpc.ChannelCredentials;
import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.ManagedChannel;
import java.net.URI;

/**
 * The three ways from a Java program into the mesh, each an ordinary gRPC channel.
 *
 * <p>Lives here: which address, and which authority. Does not: calls.
 */
final class Channels {
  private static final ChannelCredentials PLAINTEXT = InsecureChannelCredentials.create();

  private Channels() {}

  /** Through the gateway: it finds the service by the gRPC name of the call. */
  static ManagedChannel byGateway(String address) {
    return Grpc.newChannelBuilder(address, PLAINTEXT).build();
  }

  /** Through the sidecar beside this process, which finds the service by the authority. */
  static ManagedChannel bySidecar(String service) {
    String outbound = URI.create(System.getenv("WEFT_OUTBOUND")).getAuthority();
    return Grpc.newChannelBuilder(outbound, PLAINTEXT).overrideAuthority(service).build();
  }

  /** Without anything in between: instances and policies come from the registry, as GRPC_XDS_BOOTSTRAP says. */
  static ManagedChannel byXds(String service) {
    return Grpc.newChannelBuilder("xds:///" + service, PLAINTEXT).build();
  }

  /** Opens the channel that {@code gateway=HOST:PORT}, {@code sidecar} or {@code xds} means. */
  static ManagedChannel open(String way, String service) {
    String[] parts = way.split("=", 2);
    if (parts[0].equals("gateway") && parts.length == 2) {
      return byGateway(parts[1]);
    }
    return switch (way) {
      case "sidecar" -> bySidecar(service);
      case "xds" -> byXds(service);
      default -> throw new IllegalArgumentException(way + " is no way into the mesh: gateway=HOST:PORT, sidecar or xds");
    };
  }
}
