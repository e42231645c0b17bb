"""Answers what protobuf's json_format makes of documents and of wire bytes: a line in, a line out, JSON both.

{"source": text}                -> {"set": base64}, what protoc makes of the file
{"set": base64}                 from here on, these descriptors; the type is gen.M0
{"json": text}                  -> {"wire": base64} or {"error": text}
{"wire": base64}                -> {"json": document} or {"error": text}
"""

import base64
import json
import pathlib
import sys
import tempfile

import grpc_tools
from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory
from grpc_tools import protoc


def compiled(source):
    with tempfile.TemporaryDirectory() as folder:
        pathlib.Path(folder, "gen.proto").write_text(source, "utf-8")
        known = pathlib.Path(grpc_tools.__file__).parent / "_proto"
        given = ["protoc", f"-I{folder}", f"-I{known}", "--include_imports", f"--descriptor_set_out={folder}/set", "gen.proto"]
        if protoc.main(given) != 0:
            raise ValueError("protoc refused it; see above")
        return pathlib.Path(folder, "set").read_bytes()


for line in sys.stdin:
    asked = json.loads(line)
    answer = {}
    try:
        if "source" in asked:
            answer["set"] = base64.b64encode(compiled(asked["source"])).decode()
        elif "set" in asked:
            pool = descriptor_pool.DescriptorPool()
            for file in descriptor_pb2.FileDescriptorSet.FromString(base64.b64decode(asked["set"])).file:
                pool.Add(file)
            message_type = message_factory.GetMessageClass(pool.FindMessageTypeByName("gen.M0"))
        elif "json" in asked:
            message = json_format.Parse(asked["json"], message_type(), ignore_unknown_fields=True, descriptor_pool=pool)
            answer["wire"] = base64.b64encode(message.SerializePartialToString()).decode()
        else:
            message = message_type.FromString(base64.b64decode(asked["wire"]))
            answer["json"] = json_format.MessageToDict(message, descriptor_pool=pool)
            # NaN and the infinities are strings in ProtoJSON; a bare one would be no JSON.
            json.dumps(answer, allow_nan=False)
    except Exception as error:  # whatever it is, the answer is that it was refused
        answer = {"error": f"{type(error).__name__}: {error}"}
    # An error may quote half a pair of surrogates, which no JSON reader but Python's takes.
    text = json.dumps(answer, ensure_ascii=False)
    sys.stdout.buffer.write(text.encode("utf-8", "replace") + b"\n")
    sys.stdout.buffer.flush()
