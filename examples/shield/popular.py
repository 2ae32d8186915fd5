"""A small real use of popular compiled wheels: `popular.py NAME` prints the same every time, whatever else is going on.

The last line says what the shield protected, if it is up.
"""

from __future__ import annotations

import sys

USES = {
    "numpy": "import numpy as n; print(n.linalg.inv(n.array([[2.0, 0], [0, 4]])), n.fft.fft([1, 2, 3]).real)",
    "pandas": "import pandas as p; print(p.DataFrame({'a': [1, 1, 2], 'b': [3, 4, 5]}).groupby('a').sum())",
    "scipy": "from scipy import optimize as o; print(round(o.brentq(lambda x: x**3 - 2, 0, 2), 9))",
    "scikit-learn": "from sklearn.linear_model import LinearRegression as L; print(L().fit([[0], [1]], [1, 3]).coef_)",
    "pyarrow": "import pyarrow as a, pyarrow.compute as c; print(c.sum(a.array(range(1000))), a.table({'x': [1]}).schema)",
    "lxml": "from lxml import etree as e; print(e.fromstring('<a><b>1</b></a>').xpath('//b/text()'))",
    "cryptography": "from cryptography.fernet import Fernet as F; k = F(F.generate_key()); print(k.decrypt(k.encrypt(b'x')))",
    "psycopg": "import psycopg; from psycopg import sql; print(psycopg.pq.__impl__, sql.Identifier('a').as_string(None))",
    "grpcio": """
import os; os.environ["GRPC_VERBOSITY"] = "ERROR"  # else it tells of connections that end, or not, as they come
import concurrent.futures, grpc
class Echo(grpc.GenericRpcHandler):
    def service(self, details):
        return grpc.unary_unary_rpc_method_handler(lambda request, context: request + b'!')
server = grpc.server(concurrent.futures.ThreadPoolExecutor(2))
server.add_generic_rpc_handlers((Echo(),))
port = server.add_insecure_port('127.0.0.1:0'); server.start()
with grpc.insecure_channel(f'127.0.0.1:{port}') as channel:
    call = channel.unary_unary('/s/m')
    print([call(b'%d' % i) for i in range(20)], call.future(b'f').result())
server.stop(None).wait()
""",
    "pillow": "from PIL import Image as I; print(I.new('RGB', (8, 8), 'red').resize((2, 2)).getpixel((1, 1)))",
    "matplotlib": """
import io, matplotlib; matplotlib.use('agg')
from matplotlib import pyplot as p; p.plot([1, 2]); b = io.BytesIO(); p.savefig(b); print(b.getvalue()[:8])
""",
    "pyzmq": """
import zmq, threading
c = zmq.Context(); a = c.socket(zmq.PAIR); a.bind('inproc://a'); b = c.socket(zmq.PAIR); b.connect('inproc://a')
t = threading.Thread(target=lambda: b.send(b.recv()[::-1])); t.start(); a.send(b'abc'); print(a.recv()); t.join()
""",
    "uvloop": "import asyncio, uvloop as u; print(u.run(asyncio.sleep(0.01, 'slept')), u.__name__)",
    "gevent": "import gevent; print([g.get() for g in gevent.joinall([gevent.spawn(pow, i, 2) for i in range(5)])])",
    "orjson": "import orjson; print(orjson.dumps({'a': [1, 2.5, None]}))",
    "pydantic": "import pydantic as p; print(p.TypeAdapter(list[int]).validate_python(['1', 2]))",
    "polars": "import polars as p; print(p.LazyFrame({'a': [3, 1, 2]}).sort('a').collect()['a'].to_list())",
    "tokenizers": """
from tokenizers import Tokenizer, models, trainers
t = Tokenizer(models.BPE()); t.train_from_iterator(['abab', 'abc'] * 9, trainers.BpeTrainer(vocab_size=9, show_progress=False))
print(t.encode('abab').tokens)
""",
    "duckdb": "import duckdb; print(duckdb.sql('SELECT sum(i) FROM range(1000) t(i)').fetchall())",
    "sqlalchemy": "import sqlalchemy as s; print(s.create_engine('sqlite://').connect().execute(s.text('select 7')).scalar())",
    "cffi": "import cffi; f = cffi.FFI(); c = f.callback('int(int)', lambda x: x + 1); print(c(4))",
    "greenlet": "from greenlet import greenlet as g; print(g(lambda x: g.getcurrent().parent.switch(x * 2)).switch(21))",
}
REQUIREMENTS = {"psycopg": ("psycopg[binary]",)}


def main(name: str) -> None:
    exec(USES[name], {"__name__": name})
    shield = sys.modules.get("pep788.shield")
    entries = shield.report().entries if shield else ()
    print("protected:", f"{sum(entry.protected for entry in entries)} of {len(entries)}" if shield else "")


if __name__ == "__main__":
    main(sys.argv[1])
