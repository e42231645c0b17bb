import io.grpc.MethodDescriptor;
import java.util.Map;
import shop.ring.v1.GoGrpc;
import shop.ring.v1.JavaGrpc;
import shop.ring.v1.NodeGrpc;
import shop.ring.v1.PythonGrpc;
import shop.ring.v1.Ring.PassRequest;
import shop.ring.v1.Ring.PassResponse;
import shop.ring.v1.RustGrpc;

/** The services of the ring, each a language: the same method under a name of its own. */
final class Languages {
  /** The method by the name of the service. */
  static final Map<String, MethodDescriptor<PassRequest, PassResponse>> PASS =
      Map.of(
          "go", GoGrpc.getPassMethod(),
          "java", JavaGrpc.getPassMethod(),
          "node", NodeGrpc.getPassMethod(),
          "python", PythonGrpc.getPassMethod(),
          "rust", RustGrpc.getPassMethod());

  private Languages() {}
}
