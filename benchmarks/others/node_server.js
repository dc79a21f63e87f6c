// nodemailer's smtp-server with a handler that looks at the content: node node_server.js PEM
"use strict";
const fs = require("fs");
const { SMTPServer } = require(process.cwd() + "/node_modules/smtp-server");

const pem = fs.readFileSync(process.argv[2]);
const server = new SMTPServer({
    name: "mx.test",
    key: pem,
    cert: pem,
    authOptional: true,
    disableReverseLookup: true,
    size: 33554432,
    socketTimeout: 600000,
    onData(stream, session, callback) {
        const pieces = [];
        stream.on("data", (piece) => pieces.push(piece));
        stream.on("end", () => {
            const content = Buffer.concat(pieces);
            callback(content.length >= 0 ? null : new Error("never"));
        });
    },
});
server.on("error", () => {});
server.listen(0, "127.0.0.1", 1024, () => console.log(server.server.address().port));
