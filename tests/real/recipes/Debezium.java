import io.debezium.engine.ChangeEvent;
import io.debezium.engine.DebeziumEngine;
import io.debezium.engine.Header;
import io.debezium.engine.format.Json;
import java.io.BufferedReader;
import java.io.FileReader;
import java.io.InputStreamReader;
import java.util.Properties;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.LinkedBlockingQueue;

/** Debezium's own engine. Its sink is the test: each event is a line with an end, and goes on once that answers with one. */
public class Debezium {
    public static void main(String[] args) throws Exception {
        Properties properties = new Properties();
        properties.load(new FileReader(args[0]));
        BlockingQueue<String> answers = new LinkedBlockingQueue<>();
        DebeziumEngine<ChangeEvent<String, String>> engine =
            DebeziumEngine.create(Json.class, Json.class, Json.class).using(properties)
                .notifying((records, committer) -> {
                    for (ChangeEvent<String, String> record : records) {
                        System.out.println(line(record));
                        System.out.flush();
                        answers.take();
                        committer.markProcessed(record);
                    }
                    committer.markBatchFinished();
                }).build();
        Thread worker = new Thread(engine);
        Runtime.getRuntime().addShutdownHook(new Thread(() -> {
            try {
                engine.close();
                worker.join();
            } catch (Exception error) {
                error.printStackTrace();
            }
        }));
        worker.start();
        BufferedReader lines = new BufferedReader(new InputStreamReader(System.in));
        for (String line = lines.readLine(); line != null; line = lines.readLine()) answers.put(line);
        // Whoever began it is gone.
        Runtime.getRuntime().halt(1);
    }

    private static String line(ChangeEvent<String, String> record) {
        String id = "";
        for (Header<?> header : record.headers()) {
            if (header.getKey().equals("id")) id = String.valueOf(header.getValue()).replace("\"", "");
        }
        return String.join("\t", "event", id, record.destination(), record.key().replace("\"", ""), record.value(), "end");
    }
}
