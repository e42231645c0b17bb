import io.grpc.CallOptions;
import io.grpc.ManagedChannel;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import io.grpc.stub.ClientCalls;
import java.util.Arrays;
import java.util.List;
import java.util.UUID;
import java.util.concurrent.TimeUnit;
import shop.ring.v1.Ring.Hop;
import shop.ring.v1.Ring.PassRequest;
import shop.users.v1.UsersGrpc;
import shop.users.v1.UsersOuterClass.CreateUserRequest;
import shop.users.v1.UsersOuterClass.GetUserRequest;
import shop.users.v1.UsersOuterClass.ListUsersRequest;
import shop.users.v1.UsersOuterClass.User;

/**
 * A client of the example service {@code users}, and of the ring.
 *
 * <pre>
 *   Client WAY users                   makes a user, reads it back, lists; prints its id
 *   Client WAY ring SERVICE[,NEXT…]    passes the pass around; prints a line for each hop
 * </pre>
 *
 * <p>WAY is gateway=HOST:PORT, sidecar (WEFT_OUTBOUND) or xds (GRPC_XDS_BOOTSTRAP).
 */
public final class Client {
  private static final int DEADLINE_SECONDS = 10;

  private Client() {}

  private static void users(ManagedChannel channel) {
    UsersGrpc.UsersBlockingStub stub = UsersGrpc.newBlockingStub(channel).withDeadlineAfter(DEADLINE_SECONDS, TimeUnit.SECONDS);
    String email = "ada+" + UUID.randomUUID() + "@example.com";
    User made = stub.createUser(CreateUserRequest.newBuilder().setName("Ada").setEmail(email).build());
    User read = stub.getUser(GetUserRequest.newBuilder().setId(made.getId()).build());
    check(read.equals(made), "made " + made + ", read " + read);
    int listed = stub.listUsers(ListUsersRequest.newBuilder().setPageSize(1).build()).getUsersCount();
    check(listed == 1, "a page of one user has " + listed);
    Status.Code nobody = Status.Code.OK;
    try {
      stub.getUser(GetUserRequest.newBuilder().setId("nobody").build());
    } catch (StatusRuntimeException error) {
      nobody = error.getStatus().getCode();
    }
    check(nobody == Status.Code.NOT_FOUND, "nobody is a user: " + nobody);
    System.out.println(made.getId());
  }

  private static void ring(ManagedChannel channel, List<String> route) {
    CallOptions options = CallOptions.DEFAULT.withDeadlineAfter(DEADLINE_SECONDS, TimeUnit.SECONDS);
    PassRequest request = PassRequest.newBuilder().addAllRoute(route.subList(1, route.size())).build();
    for (Hop hop : ClientCalls.blockingUnaryCall(channel, Languages.PASS.get(route.get(0)), options, request).getHopsList()) {
      String trace = hop.getTraceId().isEmpty() ? "-" : hop.getTraceId();
      System.out.println(String.join(" ", hop.getService(), hop.getInstance(), trace, hop.getLibrary()));
    }
  }

  private static void check(boolean holds, String otherwise) {
    if (!holds) {
      throw new IllegalStateException(otherwise);
    }
  }

  /** Runs one of the two. */
  public static void main(String[] args) throws InterruptedException {
    boolean users = args.length == 2 && args[1].equals("users");
    boolean ring = args.length == 3 && args[1].equals("ring");
    if (!users && !ring) {
      System.err.println("Client gateway=HOST:PORT|sidecar|xds users | ring SERVICE[,NEXT…]");
      System.exit(2);
    }
    List<String> route = ring ? Arrays.asList(args[2].split(",")) : List.of();
    if (ring && !Languages.PASS.containsKey(route.get(0))) {
      System.err.println(route.get(0) + " is not of the ring");
      System.exit(2);
    }
    ManagedChannel channel = Channels.open(args[0], users ? "users" : route.get(0));
    if (users) {
      users(channel);
    } else {
      ring(channel, route);
    }
    channel.shutdownNow().awaitTermination(DEADLINE_SECONDS, TimeUnit.SECONDS);
    System.exit(0); // threads of the library may outlive its channels
  }
}
